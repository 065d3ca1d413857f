"""Elastic Weight Consolidation, with a penalty for each task or one running penalty."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from clreg_plugins.checks import one_of, within
from clreg_plugins.importance.engine.cotangents import LIKELIHOODS, VARIANTS, fisher_cotangents
from clreg_plugins.importance.fisher import checked_cotangents, fisher_diagonal
from clreg_plugins.importance.options import PassOptions, ReadingOptions
from clreg_plugins.plugin import RegularizationPlugin
from clreg_plugins.reading import DataImportance, Minibatches, rehearse


class EWCPlugin(RegularizationPlugin, supports_distributed=True):
    """EWC with a separate anchor for each experience (Kirkpatrick et al. 2017, equation 3).

    ``L = L_task + Σ_t λ_t/2 · Σ_i F_t,i (θ_i − θ*_t,i)²``. The sum of these quadratics is kept as the one quadratic
    that it is, exactly, so that memory and time at experience 100 are those at experience 1.

    The Fisher is that of what the strategy trains: its ``forward`` on its minibatches, with the likelihood of its
    criterion. Before each experience the pass is rehearsed on 4 samples, so that errors come before training; that
    takes as long as a few training steps.

    Args:
        reg_lambda: λ ≥ 0, or one λ_t for each experience (at least as many as there are): λ_t weighs the term that
            experience t leaves behind, and ``importance`` is then Σ_t λ_t F_t.
        fisher: "exact", "sample", "predicted", "empirical" or "batched"; see :func:`fisher_diagonal`.
        likelihood: "categorical", "gaussian" or "bernoulli"; default: what the strategy's criterion says.
            Class weights, label smoothing and the reduction of the criterion play no part in the Fisher; targets that
            it ignores do not count.
        draws: labels drawn for each sample by "sample", at most 65,536. With up to 32 outputs, more draws
            than outputs cost no further backward passes.
        class_dim: dimension of the classes in the outputs, as for :func:`fisher_diagonal`.
        consolidation: "experience" or "manual", see :class:`RegularizationPlugin`.
        **options: see :class:`ReadingOptions`.

    Raises:
        ValueError: an argument outside what is allowed; at the start of training, a criterion without likelihood, or
            data, targets or a model of which no Fisher can be measured.
        TypeError: an unknown argument.

    Example:
        >>> plugin = EWCPlugin(reg_lambda=100.0, fisher="exact")
        >>> # strategy = Naive(model=model, optimizer=optimizer, plugins=[plugin])
    """

    def __init__(
        self,
        reg_lambda: float | Sequence[float],
        *,
        fisher: str = "exact",
        likelihood: str | None = None,
        draws: int = 1,
        class_dim: int = 1,
        consolidation: str = "experience",
        **options: Unpack[ReadingOptions],
    ) -> None:
        super().__init__(reg_lambda, consolidation=consolidation)
        one_of("likelihood", likelihood, LIKELIHOODS, none="what the criterion says")
        checked_cotangents(VARIANTS, fisher, likelihood or "categorical", draws, class_dim, name="fisher")
        self.fisher = fisher
        self.likelihood = likelihood
        self.draws = draws
        self.class_dim = class_dim
        self.reading = DataImportance(type(self).__name__, **options)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Check that the criterion has a likelihood; then as every plugin."""
        fisher_cotangents(self.fisher, self.likelihood or likelihood_of(strategy._criterion), self.draws)
        super().before_training_exp(strategy, **kwargs)

    def _rehearse(self, strategy: Any) -> None:
        if strategy.experience is not None:
            with self.reading.rehearsal(strategy, 0, batches_matter=self.fisher == "batched") as reading:
                rehearse(self._experience_data(strategy, None), lambda few: self._fisher(strategy, few, *reading))

    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        data, batched = self._experience_data(strategy, data), self.fisher == "batched"
        with self.reading.arguments(strategy, self.penalty.n_terms, batches_matter=batched) as reading:
            return self._fisher(strategy, data, *reading)

    def _fisher(self, strategy: Any, data: Any, options: PassOptions, minibatches: Minibatches) -> dict[str, Tensor]:
        fisher = self._pass(
            strategy.model,
            data,
            variant=self.fisher,
            likelihood=self.likelihood or likelihood_of(strategy._criterion),
            draws=self.draws,
            class_dim=self.class_dim,
            ignore_index=getattr(strategy._criterion, "ignore_index", -100),
            **options,
        )
        if self.likelihood is None:
            minibatches.require_known_criterion(_plain(strategy._criterion))
        return fisher

    @property
    def _pass(self) -> Callable[..., dict[str, Any]]:
        """What measures the Fisher."""
        return fisher_diagonal

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        self.penalty.add_term(importance, anchor, weight=self._weight())


class OnlineEWCPlugin(EWCPlugin, supports_distributed=True):
    """EWC with one running importance at the latest anchor: ``Ω ← γ Ω + F``.

    With γ = 1 this is the correction of Huszár 2017 (arXiv:1712.03847); γ < 1 forgets gracefully (Schwarz et al.
    2018, section 4).

    Args:
        reg_lambda: λ ≥ 0, or one λ_t for each experience, as for :class:`EWCPlugin`.
        gamma: γ, in [0, 1].
        fisher: as for :class:`EWCPlugin`, like every further argument.
        likelihood: as for :class:`EWCPlugin`.
        draws: as for :class:`EWCPlugin`.
        class_dim: as for :class:`EWCPlugin`.
        consolidation: as for :class:`EWCPlugin`.
        **options: see :class:`ReadingOptions`.

    Raises:
        ValueError: as for :class:`EWCPlugin`, and for γ outside [0, 1].

    Example:
        >>> OnlineEWCPlugin(100.0, gamma=0.9, fisher="empirical").gamma
        0.9
    """

    def __init__(
        self,
        reg_lambda: float | Sequence[float],
        *,
        gamma: float = 1.0,
        fisher: str = "exact",
        likelihood: str | None = None,
        draws: int = 1,
        class_dim: int = 1,
        consolidation: str = "experience",
        **options: Unpack[ReadingOptions],
    ) -> None:
        super().__init__(
            reg_lambda,
            fisher=fisher,
            likelihood=likelihood,
            draws=draws,
            class_dim=class_dim,
            consolidation=consolidation,
            **options,
        )
        self.gamma = within("gamma", gamma, 0, 1)

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        self.penalty.recenter(importance, anchor, keep=self.gamma, weight=self._weight())


def likelihood_of(criterion: nn.Module | Callable[..., Tensor]) -> str:
    """The likelihood whose negative logarithm a criterion is, up to scale.

    Raises:
        ValueError: the criterion is none that has one.
    """
    for loss, likelihood in _LIKELIHOOD_OF_CLASS.items():
        if isinstance(criterion, loss):
            return likelihood
    likelihood = _LIKELIHOOD_OF_FUNCTION.get(criterion) if callable(criterion) else None
    if likelihood is None:
        name = getattr(criterion, "__name__", type(criterion).__name__)
        known = ", ".join(loss.__name__ for loss in _LIKELIHOOD_OF_CLASS)
        raise ValueError(
            f"the criterion {name} is no log-likelihood known here ({known}); name the one that it stands for: "
            f"likelihood={' or '.join(map(repr, LIKELIHOODS))}"
        )
    return likelihood


def _plain(criterion: nn.Module | Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A criterion as the class computes that its likelihood is read from, with the options of its own."""
    kinds = (loss for loss in _LIKELIHOOD_OF_CLASS if isinstance(criterion, loss))
    loss = next(kinds, None)
    return criterion if loss is None or type(criterion).forward is loss.forward else partial(loss.forward, criterion)


_LIKELIHOOD_OF_CLASS: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "categorical",
    nn.NLLLoss: "categorical",
    nn.MSELoss: "gaussian",
    nn.BCEWithLogitsLoss: "bernoulli",
}
_LIKELIHOOD_OF_FUNCTION: dict[Callable[..., Tensor], str] = {
    F.cross_entropy: "categorical",
    F.nll_loss: "categorical",
    F.mse_loss: "gaussian",
    F.binary_cross_entropy_with_logits: "bernoulli",
}
