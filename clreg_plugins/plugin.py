"""What the five plugins share: a quadratic penalty, put into an Avalanche strategy's callbacks."""

import math
import operator
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from avalanche.benchmarks import OnlineCLExperience
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from clreg_plugins.direct import DirectGradient, add_gradient
from clreg_plugins.importance.checks import one_of, within
from clreg_plugins.importance.engine.model import named_parameters
from clreg_plugins.penalty import QuadraticPenalty

CONSOLIDATION = ("experience", "manual")
GRADIENT_PATHS = ("autograd", "direct")


class RegularizationPlugin(SupervisedPlugin, supports_distributed=True):
    """Adds ``λ/2 · Σ_i Ω_i (θ_i − θ*_i)²`` to the loss, and consolidates at the end of each experience.

    A method says how one experience's importance is measured (:meth:`_measure`) and how it joins the past
    (:meth:`_consolidate`). The rest is the same for all: it works in any supervised strategy of Avalanche whose
    update calls ``before_backward``, and in any order among its plugins. Under ``torch.distributed`` every process
    must see the whole dataset of an experience, as Avalanche's do: the pass shares its batches among them. All must
    train for as many epochs, since at the end of each they tell one another whether the loss was finite.

    Args:
        reg_lambda: λ ≥ 0, a float. Methods that sum terms also take a sequence with one λ_t an experience: λ_t
            weighs the term that experience t leaves behind and is folded into its importance.
        consolidation: "experience" consolidates when an experience ends (of an online stream: when its origin
            experience ends or changes, on the origin's data). "manual" leaves it to calls of :meth:`consolidate`.
        gradient_path: "autograd", the default, makes the penalty a term of the loss's graph: right whatever happens to
            the loss. "direct" adds its gradient to ``p.grad`` as the backward pass ends, times what the loss was scaled
            by; ``strategy.loss`` gains the penalty's value alone. That saves a pass over memory and the allocation of a
            gradient at each step, for one more copy of the parameters that is held (SI holds it anyway), and excludes
            whatever needs the penalty itself differentiated; these are refused: ``torch.autograd.grad`` of the loss by
            the strategy or by plugins behind this one (MIR), ``backward(inputs=…)``, ``create_graph=True``, another
            backward pass behind ``after_backward``, hooks on the gradients of parameters, DistributedDataParallel.

    Attributes:
        penalty: the :class:`QuadraticPenalty` so far.
        paths: how the latest importance of each parameter was computed, by name (see :class:`Importance`); empty
            for methods that read no data.

    Raises:
        ValueError: an argument outside what is allowed.
        FloatingPointError: in training, the loss or an importance is NaN or infinite. On a GPU the loss is looked
            at once an epoch, so that no step waits for the device; under ``torch.distributed`` likewise, so that
            every process raises the error if one has it.
        TypeError: a subclass lacks :meth:`_measure` or :meth:`_consolidate`.
        RuntimeError: in training, the strategy's update never calls ``before_backward``, or it does what
            ``gradient_path="direct"`` excludes.
    """

    def __init__(
        self,
        reg_lambda: float | Sequence[float],
        *,
        consolidation: str = "experience",
        gradient_path: str = "autograd",
    ) -> None:
        super().__init__()
        one_of("consolidation", consolidation, CONSOLIDATION)
        one_of("gradient_path", gradient_path, GRADIENT_PATHS)
        self.reg_lambda = _strength(reg_lambda)
        self.consolidation = consolidation
        self.gradient_path = gradient_path
        self.penalty = QuadraticPenalty()
        self.paths: dict[str, str] = {}
        self._parameters: dict[str, nn.Parameter] = {}
        self._penalised = False
        self._model_id: int | None = None
        self._direct = DirectGradient()
        self._late_scale: Tensor | None = None
        self._late_products: dict[str, Tensor] = {}
        self._loss_not_finite: Tensor | None = None
        self._origin: Any = None  # of an online stream: the experience whose parts are being trained on
        self._origin_index: int | None = None
        self._parts_seen = 0

    # --------------------------------------------------------------- the public view

    @property
    def importance(self) -> dict[str, Tensor]:
        """A copy of Ω by parameter name, of everything consolidated so far, with λ_t folded in if λ is a sequence."""
        return {name: tensor.clone() for name, tensor in self.penalty.importance.items()}

    @property
    def anchor(self) -> dict[str, Tensor]:
        """A copy of θ* by name: the parameters as consolidated last, or for EWC their importance-weighted mean."""
        return {name: tensor.clone() for name, tensor in self.penalty.anchor.items()}

    def consolidate(self, strategy: Any, data: Any = None) -> None:
        """Measure the importance of what was just learned and make it part of the penalty.

        Called by itself at the end of an experience unless ``consolidation="manual"``; call it yourself where
        there are no experiences to speak of, or at moments of your own.

        Args:
            strategy: the strategy in training.
            data: a DataLoader or Dataset to measure on; by default the current experience's dataset (of an online
                stream: the origin experience's), with its eval transforms. Methods that read no data ignore it.

        Raises:
            ValueError: there is neither data nor a current experience, or λ is a sequence that has run out.
            FloatingPointError: an importance is not finite. The plugin is unchanged then.
        """
        self._check_lambda()
        self._bind(strategy)
        importance = self._measure(strategy, data)
        anchor = {name: p.detach() for name, p in self._parameters.items()}
        self._consolidate(importance, anchor)
        self.paths = dict(getattr(importance, "paths", {}))
        if self._origin is None:  # resumed amid an origin experience, which is consolidated herewith
            self._parts_seen = 0

    # ------------------------------------------------- what a method says of itself

    @abstractmethod
    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        """The importance of the experience that ends."""

    @abstractmethod
    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        """Join it to the penalty."""

    def _rehearse(self, strategy: Any) -> None:
        """Run what would fail after the experience, before it. By default nothing would."""

    # ----------------------------------------- callbacks, in the order in which they fire

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Consolidate an online origin experience that was left, before the model adapts to the next one."""
        if self.consolidation == "experience":
            self._leave_origin_if_changed(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Take in what the model has gained, and rehearse the end of the experience, once for all its parts."""
        if self.consolidation == "experience":
            self._check_lambda()
        self._bind(strategy)
        if self.consolidation == "experience" and not self._parts_seen:
            self._rehearse(strategy)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Find the parameters anew, since an evaluation or another plugin may have replaced some."""
        self._bind(strategy)
        self._penalised = False
        self._loss_not_finite = None

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        self._penalised = True
        if id(strategy.model) != self._model_id:  # replaced amid an epoch
            self._bind(strategy)
        self._late_scale = None
        if self._penalises and self.gradient_path == "direct":
            strategy.loss = self._direct.add(strategy.model, strategy.loss, self.penalty, self._parameters, self._scale)
        elif self._penalises:
            if isinstance(strategy.model, nn.parallel.DistributedDataParallel):
                term = self._value_with_late_gradient(strategy.loss.device)
            else:
                term = self.penalty.loss_term(self._parameters, self._scale)
            strategy.loss = strategy.loss + term.to(strategy.loss.device)
        self._watch(strategy.loss)

    @torch.no_grad()
    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Check the direct path; under DistributedDataParallel, add the gradient, the same in every process."""
        self._direct.check(strategy)
        if self._late_scale is None:
            return
        for name, product in self._late_products.items():
            if self._parameters[name].requires_grad:
                add_gradient(self._parameters[name], product, self._scale, self._late_scale.grad)
        self._late_products = {}

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse a strategy whose update leaves the penalty out."""
        self._require_penalised(strategy)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Look at the flag that steps raise without waiting for the device or for other processes."""
        failed = self._loss_failed(strategy)  # first: every process takes part, whatever else it finds wrong
        if not strategy._stop_training:
            if operator.length_hint(strategy.dataloader, 1) == 0:
                raise ValueError("the training data is empty: an epoch had no minibatch; it needs at least one")
            self._require_penalised(strategy)
        if failed:
            raise FloatingPointError("the loss became NaN or infinite in this epoch; it must stay finite")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Consolidate the experience."""
        if self.consolidation == "experience":
            self._end_experience(strategy)

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Take in heads that an evaluation amid training has added."""
        if self._parameters:  # an evaluation amid training may have added heads
            self._bind(strategy)

    # --------------------------------------------------------------------- experiences

    def _leave_origin_if_changed(self, strategy: Any) -> None:
        origin = _origin_of(strategy.experience)
        index = None if origin is None else origin.current_experience
        if self._parts_seen and index != self._origin_index:
            if self._origin is None:
                raise RuntimeError(
                    f"training was resumed in the middle of origin experience {self._origin_index}, but goes on "
                    f"with {'another experience' if index is None else f'origin experience {index}'}; go on with "
                    f"the rest of {self._origin_index}, or call consolidate(strategy, data) first"
                )
            self.consolidate(strategy, self._origin.dataset)
            self._parts_seen = 0
        self._origin, self._origin_index = origin, index

    def _end_experience(self, strategy: Any) -> None:
        if not isinstance(strategy.experience, OnlineCLExperience):
            self.consolidate(strategy)
        elif self._origin is None:
            warnings.warn(
                f"the online stream has no origin experiences, so {type(self).__name__} does not know when to "
                'consolidate; call consolidate(strategy, data), with consolidation="manual"',
                stacklevel=2,
            )
        else:
            # is_last_subexp stays False where the parts divide the experience evenly: count instead
            self._parts_seen += 1
            with strategy.experience.no_attribute_masking():
                parts = strategy.experience.sub_stream_length
            if self._parts_seen == parts:
                self.consolidate(strategy, self._origin.dataset)
                self._origin, self._parts_seen = None, 0

    def _experience_data(self, strategy: Any, data: Any) -> Any:
        if data is not None:
            return data
        if strategy.experience is None:
            raise ValueError(
                "consolidate() was given no data, and the strategy has no current experience; "
                "pass data=experience.dataset"
            )
        origin = _origin_of(strategy.experience)
        return (strategy.experience if origin is None else origin).dataset

    # --------------------------------------------------------------------------- steps

    @property
    def _penalises(self) -> bool:
        return bool(self.penalty.active) and self._scale > 0

    def _value_with_late_gradient(self, device: torch.device) -> Tensor:
        """The penalty's value, and a probe of what the loss will be scaled by, but no gradient yet.

        DistributedDataParallel counts the parameters that a forward pass used; a gradient that reaches another one
        through the loss, such as a past task's head, is an error to it.
        """
        self._late_scale = torch.zeros((), device=device, requires_grad=True)
        value, self._late_products = self.penalty.value_and_products(self._parameters)
        return value.to(device).mul_(self._scale / 2) + self._late_scale

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
        self._model_id = id(strategy.model)
        self.penalty.grow(self._parameters)

    def _watch(self, loss: Tensor) -> None:
        if loss.device.type == "cpu":
            # as a number: four operations on a tensor of one entry are 1% of a small model's step
            value = loss.detach().sum().item()
            if math.isfinite(value):
                return
            if not _shared():
                raise FloatingPointError(f"the loss is {value}; it must be finite")
        bad = ~torch.isfinite(loss.detach()).all()
        self._loss_not_finite = bad if self._loss_not_finite is None else self._loss_not_finite | bad

    def _loss_failed(self, strategy: Any) -> bool:
        """Whether the loss was not finite in this epoch, in any process: one that raised alone would leave the others
        waiting for it."""
        flag = self._loss_not_finite
        if _shared():
            flag = torch.zeros((), device=strategy.device) if flag is None else flag.float()
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return flag is not None and bool(flag)

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
            "origin_index": self._origin_index if self._parts_seen else None,
            "parts_seen": self._parts_seen,
            **self._extra_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            ValueError: it is of another kind of plugin or is not complete. The plugin is unchanged then.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise ValueError(f"state has the keys {sorted(state)}, expected {sorted(own)}")
        for key in ("plugin", "lambda_folded_in"):
            if state[key] != own[key]:
                raise ValueError(f"state has {key} = {state[key]!r}, but this plugin has {own[key]!r}")
        parts_seen = state["parts_seen"]
        if not isinstance(parts_seen, int) or parts_seen < 0:
            raise ValueError(f"parts_seen of the state is {parts_seen!r}; allowed: a whole number of at least 0")
        penalty = QuadraticPenalty()
        penalty.load_state_dict(state["penalty"])
        self._load_extra_state(state)
        self.penalty = penalty
        if parts_seen and state["origin_index"] != self._origin_index:  # else the experience under way goes on
            self._origin, self._origin_index = None, state["origin_index"]
        self._parts_seen = parts_seen

    def _extra_state(self) -> dict[str, Any]:
        """A method's own state beside the penalty."""
        return {}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Check and take over what :meth:`_extra_state` gave."""

    def __getstate__(self) -> dict[str, Any]:
        # bound anew when training goes on; an origin experience would drag its dataset along
        unbound = {"_parameters": {}, "_model_id": None, "_late_scale": None, "_late_products": {}, "_origin": None}
        return {**self.__dict__, **unbound, "_direct": DirectGradient()}


def _origin_of(experience: Any) -> Any:
    """The experience that an online experience is a part of; None for any other, or where there is none."""
    if not isinstance(experience, OnlineCLExperience):
        return None
    with experience.no_attribute_masking():
        return experience.origin_experience


def _shared() -> bool:
    """Whether there are other processes to tell."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _strength(reg_lambda: Any) -> float | tuple[float, ...]:
    if isinstance(reg_lambda, Sequence) and not isinstance(reg_lambda, (str, bytes)):
        if not reg_lambda:
            raise ValueError("reg_lambda is empty; allowed: a number >= 0, or one for each experience")
        return tuple(within(f"reg_lambda[{t}]", value, 0) for t, value in enumerate(reg_lambda))
    return within("reg_lambda", reg_lambda, 0)


def single(reg_lambda: Any) -> float:
    """λ of a method that has one strength for all experiences."""
    if isinstance(reg_lambda, Sequence):
        raise ValueError(f"reg_lambda is {reg_lambda!r}; allowed: one number >= 0 (EWCPlugin takes a sequence)")
    return within("reg_lambda", reg_lambda, 0)
