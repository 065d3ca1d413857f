"""The cotangents of a categorical likelihood, of logits as (samples, classes, positions)."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clreg_plugins.importance.engine.cotangents.draws_and_targets import merged, same_shape, targets_on, uniform_numbers


class Positions:
    """Outputs of a categorical likelihood as (samples, classes, positions): an image's pixels, a sequence's tokens.

    Attributes:
        logits: shape (samples, classes, positions), in at least float32.

    Raises:
        ValueError: the outputs have no such dimension.
    """

    def __init__(self, z: Tensor, class_dim: int) -> None:
        if z.ndim < 2 or not (1 <= class_dim < z.ndim or 1 - z.ndim <= class_dim < 0):
            raise ValueError(
                "a categorical likelihood needs outputs of shape (samples, classes), (samples, classes, positions...) "
                f"or, with class_dim=-1, (samples, positions..., classes); got {tuple(z.shape)} with "
                f"class_dim={class_dim}"
            )
        self._class_dim, self._dtype = class_dim, z.dtype
        moved = z.movedim(class_dim, 1)
        self._shape = moved.shape
        self.logits = moved.flatten(2) if z.ndim > 2 else moved.unsqueeze(2)
        self.logits = self.logits.to(torch.promote_types(z.dtype, torch.float32))

    @property
    def _of_targets(self) -> torch.Size:
        return torch.Size((self._shape[0], *self._shape[2:]))

    def counted(self, y: Any, ignore_index: int) -> Tensor | None:
        """Which positions count, shape (samples, positions); None if all do, or the targets are not class labels.

        Raises:
            ValueError: labels of positions have another shape than the positions of the outputs.
        """
        if not isinstance(y, Tensor) or y.is_floating_point():
            return None
        if y.shape != self._of_targets:
            if len(self._shape) > 2:
                self._refuse(y)
            return None
        counts = (y.long() != ignore_index).reshape(len(y), -1).to(self.logits.device)
        return None if counts.all() else counts

    def targets(self, y: Any) -> Tensor:
        """Class labels as (samples, positions), class probabilities as (samples, classes, positions).

        Raises:
            ValueError: there are none, or their shape does not fit the outputs.
        """
        y = targets_on(y, self.logits)
        if y.is_floating_point():
            return same_shape(y, self._shape, "class probabilities").reshape(self.logits.shape).to(self.logits)
        if y.shape != self._of_targets:
            self._refuse(y)
        return y.reshape(len(y), -1)

    def _refuse(self, y: Tensor) -> None:
        hint = "; class_dim says which dimension is the classes, unpack= and forward= can shift or cut"
        raise ValueError(
            f"class labels have shape {tuple(y.shape)}, expected {tuple(self._of_targets)}"
            + (hint if len(self._shape) > 2 else "")
        )

    def back(self, v: Tensor) -> Tensor:
        """A cotangent of :attr:`logits` as one of the outputs."""
        return v.reshape(self._shape).movedim(1, self._class_dim).to(self._dtype)


def exact_number(z: Tensor, class_dim: int) -> int:
    """How many cotangents :func:`exact` gives at most: C − 1 for each position."""
    positions = Positions(z, class_dim).logits.shape
    return positions[2] * max(1, positions[1] - 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part/whole with 0/0 := 0."""
    return torch.where(whole == 0, 0, part / whole)


def _score(labels: Tensor, pi: Tensor, counts: Tensor | None) -> Tensor:
    """e_y − π where positions count, else 0. 1 − π_y is the sum of the other π, so that nothing cancels."""
    at = labels.unsqueeze(1)
    others = pi.scatter(1, at, 0).sum(dim=1, keepdim=True)
    score = (-pi).scatter_(1, at, others)
    return score if counts is None else score * counts.unsqueeze(1)


def exact(pi: Tensor, _y: Any, counts: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """The columns of the Cholesky factor of the score's covariance diag(π) − ππᵀ, which has rank C − 1.

    With s_k = Σ_{j>k} π_j,  v_k = √(π_k s_k/s_{k−1}) (e_k − π_{>k}/s_k)  for k = 1…C − 1 (0/0 := 0): one label after
    the other is drawn or passed over. Every s is a sum of what it stands for, so that nothing cancels.
    """
    for p in range(pi.shape[2]):
        here = pi[:, :, p]
        tail = here.flip(1).cumsum(dim=1).flip(1)  # s_{k−1} at k
        after = F.pad(tail[:, 1:], (0, 1))  # s_k at k
        deviation = (here * _ratio(after, tail)).sqrt()
        if counts is not None:
            deviation = deviation * counts[:, p, None]
        for k in deviation.any(dim=0).nonzero().flatten().tolist():  # a masked logit has π = 0 and costs nothing
            v = torch.zeros_like(pi)
            v[:, k, p] = deviation[:, k]
            v[:, k + 1 :, p] = -deviation[:, k, None] * _ratio(here[:, k + 1 :], after[:, k, None])
            yield v


def sample(pi: Tensor, _y: Any, counts: Tensor | None, generator: Generator, *, draws: int) -> Iterator[Tensor]:
    """(e_ŷ − π)/√S with ŷ ~ π, by inverting the distribution function, which never gives a label of probability 0."""
    cumulative = pi.cumsum(dim=1)
    total = cumulative[:, -1]
    last = (cumulative < total.unsqueeze(1)).sum(dim=1)
    numbers = uniform_numbers((pi.shape[0], pi.shape[2]), draws, generator, pi)
    labels = ((cumulative <= (uniform * total).unsqueeze(1)).sum(dim=1).minimum(last) for uniform in numbers)
    scores = (_score(each, pi, counts) / draws**0.5 for each in labels)
    return merged(scores, draws, used=pi.any(dim=0))  # a masked logit has π = 0


def predicted(pi: Tensor, _y: Any, counts: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """e_ŷ − π with ŷ the most likely label."""
    yield _score(pi.argmax(dim=1), pi, counts)


def empirical(pi: Tensor, y: Any, counts: Tensor | None, _generator: Generator) -> Iterator[Tensor]:
    """e_y − π."""
    if y.is_floating_point():  # class probabilities: ∇ Σ_c y_c log π_c
        yield y - pi * y.sum(dim=1, keepdim=True)
        return
    if counts is not None:
        y = torch.where(counts, y, 0)
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < pi.shape[1]:
        raise ValueError(
            f"class labels range from {int(y.min())} to {int(y.max())}; allowed: 0 to {pi.shape[1] - 1}, "
            "the model's outputs, and ignore_index"
        )
    yield _score(y.long(), pi, counts)
