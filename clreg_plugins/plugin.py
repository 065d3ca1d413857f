"""The base class of all methods, which adds a quadratic penalty in an Avalanche strategy's callbacks."""

import inspect
import operator
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from clreg_plugins.checks import instance, mapping, one_of, shown, strengths, whole
from clreg_plugins.direct import upgraded
from clreg_plugins.importance.engine.model import named_parameters, state_dtype
from clreg_plugins.importance.options import READING_DEFAULTS
from clreg_plugins.loss_check import LossCheck
from clreg_plugins.online_streams import OnlineStream, origin_of
from clreg_plugins.penalty import QuadraticPenalty
from clreg_plugins.penalty_step import Step

CONSOLIDATION = ("experience", "manual")


class RegularizationPlugin(SupervisedPlugin, supports_distributed=True):
    """Adds ``λ/2 · Σ_i Ω_i (θ_i − θ*_i)²`` to the loss, and consolidates at the end of each experience.

    A method implements :meth:`_measure`, one experience's importance, and :meth:`_consolidate`, how it joins the past.
    The plugin works in any supervised strategy of Avalanche whose update calls ``before_backward``, in any order among
    its plugins. Under ``torch.distributed`` every process must hold the whole dataset of an experience, as Avalanche's
    do, and train for the same number of epochs. Frozen parameters that were never trained have no state in ``penalty``;
    an importance that :meth:`_measure` returns for them is left out.

    Args:
        reg_lambda: λ ≥ 0, a float. Methods that sum terms also take a sequence with one λ_t per experience: λ_t
            weighs the term that experience t leaves behind and is folded into its importance.
        consolidation: "experience" consolidates when an experience ends (of an online stream: when its origin
            experience ends or changes, on the origin's data). "manual" leaves it to calls of :meth:`consolidate`.

    Attributes:
        penalty: the :class:`QuadraticPenalty` so far.
        paths: how the latest importance of each parameter was computed, by name (see :class:`Importance`); empty
            for methods that read no data.

    Raises:
        ValueError: an argument outside what is allowed.
        FloatingPointError: in training, the loss or an importance is NaN or infinite. On a GPU the loss is checked
            once per epoch, so that no step waits for the device; under ``torch.distributed`` likewise, so that
            every process raises the error if one has it.
        TypeError: a subclass lacks :meth:`_measure` or :meth:`_consolidate`.
        RuntimeError: in training, the strategy's update never calls ``before_backward``.
    """

    def __init__(self, reg_lambda: float | Sequence[float], *, consolidation: str = "experience") -> None:
        super().__init__()
        one_of("consolidation", consolidation, CONSOLIDATION)
        self.reg_lambda = strengths(reg_lambda)
        self.consolidation = consolidation
        self.penalty = self._new_penalty()
        self.paths: dict[str, str] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._stateless: dict[str, nn.Parameter] = {}  # frozen ones that were never trained
        self._bound_ids: tuple[int, ...] = ()  # see _ids_of
        self._warned_missing: set[str] = set()
        self._work_space: Step | None = None
        self._penalised = False
        self._late_probe: Tensor | None = None  # receives what the loss is scaled by
        self._loss_check = LossCheck()
        self._stream = OnlineStream()

    # --------------------------------------------------------------- the public view

    @property
    def importance(self) -> dict[str, Tensor]:
        """A copy of Ω by parameter name, of everything consolidated so far, with λ_t folded in if λ is a sequence."""
        zeros = {name: torch.zeros_like(p, dtype=state_dtype(p)) for name, p in self._stateless.items()}
        return self.penalty.diagonal() | zeros

    @property
    def anchor(self) -> dict[str, Tensor]:
        """A copy of θ* by name: the parameters as consolidated last, or for EWC their importance-weighted mean."""
        frozen = {name: p.detach().to(state_dtype(p), copy=True) for name, p in self._stateless.items()}
        return self.penalty.anchor.copies() | frozen

    def consolidate(self, strategy: Any, data: Any = None) -> None:
        """Measure the importance of what was just learned and make it part of the penalty.

        Called at the end of an experience unless ``consolidation="manual"``; call it yourself in task-free training.

        Args:
            strategy: the strategy in training.
            data: a DataLoader or Dataset to measure on; by default the current experience's dataset (of an online
                stream: the origin experience's), with its eval transforms. Methods that read no data ignore it.

        Raises:
            ValueError: there is neither data nor a current experience, or λ is a sequence that has run out.
            FloatingPointError: an importance is not finite. The plugin is unchanged then.
            TypeError: the strategy has no model.
        """
        instance("strategy.model", getattr(strategy, "model", None), nn.Module, "that of a strategy in training")
        self._check_lambda()
        self._bind(strategy)
        importance = self._measure(strategy, data)
        anchor = {name: p.detach() for name, p in self._parameters.items() if name in self.penalty.anchor}
        self._consolidate(self._of_trained(importance), anchor)
        self.paths = dict(getattr(importance, "paths", {}))
        if self._stream.origin is None:  # resumed in the middle of an origin experience, which this consolidates
            self._stream.end()

    # ------------------------------------------------- what a method says of itself

    @abstractmethod
    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        """The importance of the experience that ends."""

    @abstractmethod
    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        """Merge it into the penalty."""

    @property
    def _keeps_negative(self) -> bool:
        """Whether importances may be negative."""
        return False

    def _new_penalty(self) -> QuadraticPenalty:
        """A penalty without terms."""
        return QuadraticPenalty()

    def _of_trained(self, importance: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """An importance without the parameters that have no state."""
        return {name: value for name, value in importance.items() if name not in self._stateless}

    def _rehearse(self, strategy: Any) -> None:
        """Run the importance pass on a few samples, so that its errors come before training."""

    # ----------------------------------------- callbacks, in the order in which they fire

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Consolidate the origin experience of an online stream that training leaves unfinished."""
        if self.consolidation == "experience":
            if (origin := self._stream.left_by(strategy.experience)) is not None:
                self.consolidate(strategy, origin.dataset)
            self._stream.enter(strategy.experience)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add state for new parameters and rehearse the importance pass, once for each origin experience."""
        if self.consolidation == "experience":
            self._check_lambda()
        self._bind(strategy)
        if self.consolidation == "experience" and not self._stream.parts_seen:
            self._rehearse(strategy)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Look up the parameters again: an evaluation or another plugin may have replaced some."""
        self._bind(strategy)
        self._penalised = False
        self._loss_check.begin_epoch()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        self._penalised = True
        unfrozen = any(p.requires_grad for p in self._stateless.values())
        if unfrozen or self._bound_ids != _ids_of(strategy):  # a model or parameters may be replaced during an epoch
            self._bind(strategy)
        self._late_probe = None
        if self._penalises:
            step = self._work_space = self.penalty.step(self._parameters, self._scale, self._work)
            if isinstance(strategy.model, nn.parallel.DistributedDataParallel):
                # it counts the parameters that a forward pass used, and takes a gradient that reaches another one
                # through the loss, such as a past task's head, for an error
                self._late_probe = torch.zeros_like(step.value, requires_grad=True)
                term = step.value + self._late_probe
            else:
                term = self.penalty.differentiable(step, self._parameters)
            strategy.loss = strategy.loss + term.to(strategy.loss.device).view(strategy.loss.shape)
        self._loss_check.watch(strategy.loss)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Under DistributedDataParallel, add the penalty's gradient, the same in every process."""
        if self._late_probe is not None:
            if self._late_probe.grad is None:
                raise RuntimeError(
                    f"{type(strategy).__name__}'s backward pass did not differentiate strategy.loss as "
                    f"{type(self).__name__} left it; under DistributedDataParallel it must not be replaced by another"
                )
            trained = {
                name: p for name, p in self._parameters.items() if name in self.penalty.active and p.requires_grad
            }
            for name, gradient in self._work.gradient(list(trained), self._late_probe.grad).items():
                p = trained[name]
                if p.grad is None or p.grad.is_sparse:
                    p.grad = (gradient if p.grad is None else gradient + p.grad).to(p.dtype)
                else:  # in place, since it may be a view of a bucket
                    p.grad.add_(gradient)

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Raise an error if the strategy's update did not add the penalty."""
        self._require_penalised(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Raise the errors that steps deferred."""
        failed = self._loss_check.failed(strategy.device)  # first: every process takes part, whatever else is wrong
        if not strategy._stop_training:
            if operator.length_hint(strategy.dataloader, 1) == 0:
                raise ValueError("the training data is empty: an epoch had no minibatch; it needs at least one")
            self._require_penalised(strategy)
        if failed:
            raise FloatingPointError("the loss became NaN or infinite in this epoch; it must stay finite")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Consolidate the experience, or the online origin experience of which it is the last part."""
        if self.consolidation != "experience":
            return
        if not isinstance(strategy.experience, OnlineCLExperience):
            self.consolidate(strategy)
        elif self._stream.origin is None:
            warnings.warn(
                f"the online stream has no origin experiences, so {type(self).__name__} does not know when to "
                'consolidate; call consolidate(strategy, data), with consolidation="manual"',
                stacklevel=2,
            )
        elif (origin := self._stream.end_part(strategy.experience)) is not None:
            self.consolidate(strategy, origin.dataset)
            self._stream.end()

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Add state for heads that an evaluation during training has added."""
        if self._parameters:
            self._bind(strategy)

    # ------------------------------------------------------------------------------- parts

    def _experience_data(self, strategy: Any, data: Any) -> Any:
        if data is not None:
            return data
        if strategy.experience is None:
            raise ValueError(
                "consolidate() was given no data, and the strategy has no current experience; "
                "pass data=experience.dataset"
            )
        origin = origin_of(strategy.experience)
        return (strategy.experience if origin is None else origin).dataset

    @property
    def _penalises(self) -> bool:
        return bool(self.penalty.active) and self._scale > 0

    @property
    def _work(self) -> Step:
        """Memory for a step's penalty, kept from one step to the next."""
        if self._work_space is None or self._work_space.product.places is not self.penalty.anchor.places:
            self._work_space = self.penalty.work_space()
        return self._work_space

    @property
    def _scale(self) -> float:
        return 1.0 if isinstance(self.reg_lambda, tuple) else self.reg_lambda

    def _weight(self) -> float:
        """λ_t of the term about to be consolidated."""
        return self.reg_lambda[self.penalty.n_terms] if isinstance(self.reg_lambda, tuple) else 1.0

    def _check_lambda(self) -> None:
        if isinstance(self.reg_lambda, tuple) and self.penalty.n_terms >= len(self.reg_lambda):
            raise ValueError(
                f"reg_lambda has {len(self.reg_lambda)} values, but this is experience number "
                f"{self.penalty.n_terms + 1}; give one for each experience, or one float for all"
            )

    def _bind(self, strategy: Any) -> None:
        self._parameters = named_parameters(strategy.model)
        self._bound_ids = _ids_of(strategy)
        known = self.penalty.anchor
        self._stateless = {n: p for n, p in self._parameters.items() if not p.requires_grad and n not in known}
        self.penalty.grow({name: p for name, p in self._parameters.items() if name not in self._stateless})
        if gone := set(self.penalty.active).difference(self._parameters, self._warned_missing):
            self._warned_missing |= gone
            warnings.warn(
                f"the model no longer has {', '.join(sorted(gone))}: the importance of these has no effect. If a layer "
                "was renamed or wrapped, its weights are not protected under their new names",
                stacklevel=2,
            )

    def _require_penalised(self, strategy: Any) -> None:
        if not self._penalised:
            raise RuntimeError(
                f"{type(strategy).__name__} never calls before_backward, so {type(self).__name__} cannot add its "
                "penalty; allowed are strategies whose update calls it (those of avalanche's SGDUpdate)"
            )

    # --------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned, as plain tensors, numbers and strings (``weights_only=True`` loads it).

        Hyperparameters are not part of it: they are the constructor's.
        """
        return {
            "plugin": type(self).__name__,
            "lambda_folded_in": isinstance(self.reg_lambda, tuple),
            "penalty": self.penalty.state_dict(),
            "origin_index": self._stream.index if self._stream.parts_seen else None,
            "parts_seen": self._stream.parts_seen,
            **self._extra_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            ValueError: it is of another kind of plugin, not complete, or holds what no state of this plugin does. The
                plugin is unchanged then.
        """
        own = self.state_dict()
        if set(mapping("state", state)) != set(own):
            raise ValueError(f"state has the keys {sorted(state)}, expected {sorted(own)}")
        for key in ("plugin", "lambda_folded_in"):
            if type(state[key]) is not type(own[key]) or state[key] != own[key]:
                raise ValueError(f"state has {key} = {shown(state[key])}, but this plugin has {own[key]!r}")
        parts_seen = whole("parts_seen of the state", state["parts_seen"], 0)
        index = whole("origin_index of the state", state["origin_index"], 0, none="no part was seen")
        if parts_seen and index is None:
            raise ValueError(f"origin_index of the state is None, but parts_seen is {parts_seen}; allowed: its number")
        penalty = self._new_penalty()
        penalty.load_state_dict(state["penalty"], negative=self._keeps_negative)
        self._load_extra_state(state, penalty)
        self.penalty = penalty
        self._stream.resume(index, parts_seen)

    def _extra_state(self) -> dict[str, Any]:
        """A method's own state in addition to the penalty."""
        return {}

    def _load_extra_state(self, state: Mapping[str, Any], penalty: QuadraticPenalty) -> None:
        """Check and take over what :meth:`_extra_state` gave; ``penalty`` is the state's, checked."""

    def __getstate__(self) -> dict[str, Any]:
        # looked up again when training goes on
        return {
            **self.__dict__,
            "_parameters": {},
            "_stateless": {},
            "_bound_ids": (),
            "_work_space": None,
            "_late_probe": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(upgraded(state) if "_direct" in state else state)

    def __repr__(self) -> str:
        """The constructor call that makes such a plugin, without default options of the importance pass."""
        names = inspect.signature(type(self)).parameters
        options = {name: getattr(self, name, ...) for name in names if name not in ("options", "args", "kwargs")}
        if hasattr(self, "reading"):
            options |= {k: v for k, v in self.reading.options.items() if v != READING_DEFAULTS[k]}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def _ids_of(strategy: Any) -> tuple[int, ...]:
    """Of the model and of the optimizer's parameters, which change where one of them is replaced."""
    groups = getattr(getattr(strategy, "optimizer", None), "param_groups", ())
    return id(strategy.model), *(id(p) for group in groups for p in group["params"])
