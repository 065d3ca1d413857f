"""Elastic Weight Consolidation, with a penalty for each task or one that runs on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from clreg_plugins.importance.checks import at_least, one_of, within
from clreg_plugins.importance.cotangents import LIKELIHOODS, VARIANTS, fisher_cotangents
from clreg_plugins.importance.fisher import fisher_diagonal
from clreg_plugins.plugin import RegularizationPlugin
from clreg_plugins.reading import DataImportance


class EWCPlugin(RegularizationPlugin, supports_distributed=True):
    """EWC with a separate anchor for each experience (Kirkpatrick et al. 2017, equation 3).

    ``L = L_task + Σ_t λ_t/2 · Σ_i F_t,i (θ_i − θ*_t,i)²``. The sum of these quadratics is kept as the one quadratic
    that it is, exactly, so that memory and time at experience 100 are those at experience 1.

    Args:
        reg_lambda: λ ≥ 0, or one λ_t for each experience (at least as many as there are): λ_t weighs the term that
            experience t leaves behind, and ``importance`` is then Σ_t λ_t F_t.
        fisher: "exact", "sample", "predicted", "empirical" or "batched"; see :func:`fisher_diagonal`.
        n_samples: measure the Fisher on that many samples drawn from the experience; default all.
        draws: labels drawn for each sample by "sample".
        likelihood: "categorical", "gaussian" or "bernoulli"; default: what the strategy's criterion says.
            Class weights, label smoothing and the reduction of the criterion play no part in the Fisher.
        batch_size: samples read at a time in the pass, by default as for :func:`fisher_diagonal`; for "batched" the
            strategy's.
        num_workers: of the pass's DataLoader.
        max_bytes: bound for the pass's own memory, 1 GiB by default.
        seed: of the pass's draws; the global generators are not touched.
        consolidation: "experience" or "manual", see :class:`RegularizationPlugin`.
        gradient_path: "autograd" or "direct", see :class:`RegularizationPlugin`.

    Raises:
        ValueError: an argument outside what is allowed; at the start of training, a criterion without likelihood.

    Example:
        >>> plugin = EWCPlugin(reg_lambda=100.0, fisher="exact")
        >>> # strategy = Naive(model=model, optimizer=optimizer, plugins=[plugin])
    """

    def __init__(
        self,
        reg_lambda: float | Sequence[float],
        *,
        fisher: str = "exact",
        n_samples: int | None = None,
        draws: int = 1,
        likelihood: str | None = None,
        batch_size: int | None = None,
        num_workers: int = 0,
        max_bytes: int = 2**30,
        seed: int = 0,
        consolidation: str = "experience",
        gradient_path: str = "autograd",
    ) -> None:
        super().__init__(reg_lambda, consolidation=consolidation, gradient_path=gradient_path)
        one_of("fisher", fisher, VARIANTS)
        at_least("draws", draws, 1)
        if likelihood is not None:
            one_of("likelihood", likelihood, LIKELIHOODS)
            fisher_cotangents(fisher, likelihood, draws)
        self.fisher = fisher
        self.draws = draws
        self.likelihood = likelihood
        self.reading = DataImportance(n_samples, batch_size, num_workers, max_bytes, seed)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Check at once that the criterion has a likelihood, not only when the first experience has been trained on."""
        # at once, rather than when the first experience has been trained on
        fisher_cotangents(
            self.fisher,
            self.likelihood or likelihood_of(strategy._criterion),
            self.draws,
        )
        super().before_training_exp(strategy, **kwargs)

    def _measure(self, strategy: Any, data: Any) -> dict[str, Tensor]:
        batched = self.fisher == "batched"
        return fisher_diagonal(
            strategy.model,
            self._experience_data(strategy, data),
            variant=self.fisher,
            likelihood=self.likelihood or likelihood_of(strategy._criterion),
            draws=self.draws,
            **self.reading.arguments(strategy, self.penalty.n_terms, batches_matter=batched),
        )

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
        **options: the further arguments of :class:`EWCPlugin`.

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
        **options: Any,
    ) -> None:
        super().__init__(reg_lambda, fisher=fisher, **options)
        self.gamma = within("gamma", gamma, 0, 1)

    def _consolidate(self, importance: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        self.penalty.recenter(importance, anchor, keep=self.gamma, weight=self._weight())


def likelihood_of(criterion: nn.Module | Callable[..., Tensor]) -> str:
    """The likelihood whose negative logarithm a criterion is, up to scale.

    Raises:
        ValueError: the criterion is none that has one.
    """
    for kind, likelihood in _LIKELIHOOD_OF_CLASS.items():
        if isinstance(criterion, kind):
            return likelihood
    likelihood = _LIKELIHOOD_OF_FUNCTION.get(criterion) if callable(criterion) else None
    if likelihood is None:
        name = getattr(criterion, "__name__", type(criterion).__name__)
        known = ", ".join(kind.__name__ for kind in _LIKELIHOOD_OF_CLASS)
        raise ValueError(
            f"the criterion {name} is no log-likelihood known here ({known}); name the one that it stands for: "
            f"likelihood={' or '.join(map(repr, LIKELIHOODS))}"
        )
    return likelihood


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
