"""Slow, obvious references in float64: one sample at a time, one label at a time, plain autograd.

Nothing here knows how the package computes anything: log-likelihoods and norms are written out and
differentiated.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Samples = tuple[Tensor, ...]
"""``(inputs,)``, ``(inputs, targets)`` or ``(inputs, targets, task labels)``, samples along dimension 0."""


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that a model makes for itself (Avalanche's multi-head output) are of ``dtype`` in here."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double().eval()


def _outputs(model: nn.Module, samples: Samples) -> Tensor:
    inputs = samples[0].double() if samples[0].is_floating_point() else samples[0]
    with default_dtype(torch.float64):
        return model(inputs, samples[2]) if len(samples) > 2 else model(inputs)


def _one_by_one(samples: Samples) -> list[Samples]:
    return [tuple(part[n : n + 1] for part in samples) for n in range(len(samples[0]))]


def _in_batches(samples: Samples, size: int) -> list[Samples]:
    return [tuple(part[n : n + size] for part in samples) for n in range(0, len(samples[0]), size)]


def _gradient(model: nn.Module, scalar: Tensor) -> Tensors:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    result = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    if parameters and scalar.requires_grad:
        values = torch.autograd.grad(scalar, parameters.values(), retain_graph=True, allow_unused=True)
        result.update({name: g.to_dense() for name, g in zip(parameters, values, strict=True) if g is not None})
    return result


def _add(total: Tensors, term: Tensors, factor: float) -> Tensors:
    return {name: total[name] + factor * term[name] for name in term} if total else _scaled(term, factor)


def _scaled(term: Tensors, factor: float) -> Tensors:
    return {name: factor * value for name, value in term.items()}


def _squared(gradient: Tensors) -> Tensors:
    return {name: g**2 for name, g in gradient.items()}


# ------------------------------------------------------------------ Fisher


def log_likelihood(z: Tensor, y: Tensor, likelihood: str) -> Tensor:
    """``log p(y|x)`` by sample, shape (samples,). A float ``y`` under "categorical" holds probabilities."""
    if likelihood == "categorical":
        log_p = torch.log_softmax(z, dim=1)
        if y.is_floating_point():
            return torch.stack([(y[n] * log_p[n]).sum() for n in range(len(z))])
        return torch.stack([log_p[n, int(y[n])] for n in range(len(z))])
    if likelihood == "gaussian":
        log_p = torch.distributions.Normal(z, torch.ones_like(z)).log_prob(y.double())
    else:
        log_p = torch.distributions.Bernoulli(logits=z).log_prob(y.double())
    return log_p.reshape(len(z), -1).sum(dim=1)


def _every_target(z: Tensor, likelihood: str) -> Iterator[tuple[float, Tensor]]:
    """(probability, target) over all that one sample could have as its target."""
    if likelihood == "categorical":
        for c, probability in enumerate(torch.softmax(z, dim=1)[0].tolist()):
            yield probability, torch.tensor([c])
        return
    corners = itertools.product((0.0, 1.0), repeat=z.numel())
    for corner in corners:
        y = torch.tensor(corner, dtype=torch.float64).view(z.shape)
        if likelihood == "bernoulli":
            yield float(torch.distributions.Bernoulli(logits=z).log_prob(y).sum().exp()), y
        else:
            # The score is linear in y, so its second moment needs only the mean z and the covariance I of y:
            # those of z ± 1 with equal chances.
            yield 0.5 ** z.numel(), z + 2 * y - 1


def _likeliest_target(z: Tensor, likelihood: str) -> Tensor:
    _, y = max(_every_target(z, likelihood), key=lambda pair: pair[0])
    return y


def fisher(
    model: nn.Module, samples: Samples, *, variant: str, likelihood: str, drawn: list[Tensor] | None = None
) -> Tensors:
    """``1/N Σ_n E_y (∂ log p(y|x_n)/∂θ)²``, y every target, those ``drawn``, the likeliest or the true.

    Args:
        drawn: for "sample": one tensor of targets, shape (samples, …), for each draw.
    """
    model = _double(model)
    total: Tensors = {}
    for n, sample in enumerate(_one_by_one(samples)):
        z = _outputs(model, sample)
        if variant == "exact":
            targets = list(_every_target(z.detach(), likelihood))
        elif variant == "sample":
            targets = [(1 / len(drawn), y[n : n + 1]) for y in drawn]
        elif variant == "predicted":
            targets = [(1.0, _likeliest_target(z.detach(), likelihood))]
        else:
            targets = [(1.0, sample[1])]
        for probability, y in targets:
            score = _gradient(model, log_likelihood(z, y, likelihood).sum())
            total = _add(total, _squared(score), probability / len(samples[0]))
    return total


Outputs = Callable[[nn.Module, int], Tensor]
"""``(model, n) -> z`` of sample n alone: logits of one position a row, shape (positions, classes)."""


def fisher_at_positions(
    model: nn.Module,
    outputs: Outputs,
    n_samples: int,
    *,
    variant: str,
    targets: list[Tensor] | None = None,
    ignore_index: int = -100,
) -> Tensors:
    """The Fisher of samples with labels at many positions: log p of a sample is the sum over its positions.

    "exact" goes through every labelling of a sample's positions, classes ** positions of them. Positions whose
    target is ``ignore_index`` are left out, and so are samples that have no other.

    Args:
        outputs: of the model in float64 and eval mode.
        targets: of each sample, shape (positions,); None: every position counts.
    """
    model = _double(model)
    total: Tensors = {}
    counted = 0
    for n in range(n_samples):
        with default_dtype(torch.float64):
            log_p = torch.log_softmax(outputs(model, n), dim=1)
        positions, classes = log_p.shape
        if targets is not None:
            positions = (targets[n] != ignore_index).nonzero().flatten().tolist()
            log_p = log_p[positions]
            positions = len(positions)
        if not positions:
            continue
        counted += 1
        if variant == "exact":
            labellings = list(itertools.product(range(classes), repeat=positions))
        elif variant == "predicted":
            labellings = [log_p.argmax(dim=1).tolist()]
        else:
            labellings = [[int(y) for y in targets[n] if y != ignore_index]]
        for labels in labellings:
            of_sample = sum(log_p[position, label] for position, label in enumerate(labels))
            probability = float(of_sample.detach().exp()) if variant == "exact" else 1.0
            total = _add(total, _squared(_gradient(model, of_sample)), probability)
    return _scaled(total, 1 / counted)


def mas_of(model: nn.Module, outputs: Outputs, n_samples: int) -> Tensors:
    """``1/N Σ_n |∂‖z_n‖²/∂θ|`` of outputs of any shape."""
    model = _double(model)
    total: Tensors = {}
    for n in range(n_samples):
        with default_dtype(torch.float64):
            norm = (outputs(model, n) ** 2).sum()
        total = _add(total, _root_of_sum_of_squares([_gradient(model, norm)]), 1 / n_samples)
    return total


def batched_fisher(model: nn.Module, samples: Samples, *, likelihood: str, batch_size: int) -> Tensors:
    """The squared gradient of each batch's mean log-likelihood, averaged over batches."""
    model = _double(model)
    batches = _in_batches(samples, batch_size)
    total: Tensors = {}
    for batch in batches:
        mean = log_likelihood(_outputs(model, batch), batch[1], likelihood).mean()
        total = _add(total, _squared(_gradient(model, mean)), 1 / len(batches))
    return total


# --------------------------------------------------------------------- MAS


def _output_scalars(z: Tensor, output: str, mask_value: float | None) -> list[Tensor]:
    """The functions of one sample's output whose gradients count; their gradients' squares are summed."""
    z = z.flatten()
    if output == "vector":
        return list(z)
    if output == "squared_norm":
        return [(z**2).sum()]
    used = [value for value in z if mask_value is None or value.item() != mask_value]
    return [sum(value**2 for value in used) / len(used)]


def _root_of_sum_of_squares(gradients: list[Tensors]) -> Tensors:
    return {name: sum(g[name] ** 2 for g in gradients) ** 0.5 for name in gradients[0]}


def mas(
    model: nn.Module,
    samples: Samples,
    *,
    output: str,
    mask_value: float | None = None,
    batch_size: int | None = None,
) -> Tensors:
    """``1/N Σ_n |∂f(z_n)/∂θ|`` with f as ``output`` says; with ``batch_size``, averaged over each batch."""
    model = _double(model)
    groups = _in_batches(samples, batch_size or 1)
    total: Tensors = {}
    for group in groups:
        z = _outputs(model, group)
        rows = [_output_scalars(z[n], output, mask_value) for n in range(len(z))]
        means = [sum(column) / len(z) for column in zip(*rows, strict=True)]
        sensitivity = _root_of_sum_of_squares([_gradient(model, mean) for mean in means])
        total = _add(total, sensitivity, 1 / len(groups))
    return total


# ----------------------------------------------------------------- penalty


def quadratics(terms: list[tuple[float, Tensors, Tensors]], parameters: Tensors) -> tuple[float, Tensors]:
    """``Σ_t w_t Σ_i F_ti (θ_i − θ*_ti)²`` and its gradient, term by term; a term is (w_t, F_t, θ*_t)."""
    value = 0.0
    gradient = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
    for weight, importance, anchor in terms:
        for name, strength in importance.items():
            difference = parameters[name].detach().double() - anchor[name].double()
            value += weight * float((strength.double() * difference**2).sum())
            gradient[name] += 2 * weight * strength.double() * difference
    return value, gradient


# -------------------------------------------------------------- comparison


def assert_close(got: Tensors, expected: Tensors, tolerance: float, what: str = "") -> None:
    """Each tensor is within ``tolerance`` times its largest expected entry; the message tells the numbers."""
    assert set(got) == set(expected), f"{what}: names differ: {set(got) ^ set(expected)}"
    for name, want in expected.items():
        assert got[name].shape == want.shape, f"{what} {name}: {tuple(got[name].shape)}, not {tuple(want.shape)}"
        if not want.numel():
            continue
        difference = (got[name].detach().double().cpu() - want.double()).abs().max().item()
        scale = want.abs().max().item()
        assert difference <= tolerance * scale, (
            f"{what} {name}: largest difference {difference:.3g} > {tolerance:g} x the largest, {scale:.3g}"
        )
