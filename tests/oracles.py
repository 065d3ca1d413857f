"""Slow, obvious references in float64: one sample at a time, one label at a time, plain autograd.

Nothing here knows how the package computes anything: log-likelihoods and norms are written out and
differentiated.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

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


Scored = list[tuple[float, Tensor]]
"""(probability, log p(y|x)) of every target y of one sample that a variant of the Fisher goes through."""


def scored(
    z: Tensor, sample: Samples, n: int, variant: str, likelihood: str, drawn: list[Tensor] | None = None
) -> Scored:
    """Of sample n with outputs ``z`` (1, ...): every target, those ``drawn``, the likeliest or the true."""
    if variant == "exact":
        targets = list(_every_target(z.detach(), likelihood))
    elif variant == "sample":
        targets = [(1 / len(drawn), y[n : n + 1]) for y in drawn]
    elif variant == "predicted":
        targets = [(1.0, _likeliest_target(z.detach(), likelihood))]
    else:
        targets = [(1.0, sample[1])]
    return [(probability, log_likelihood(z, y, likelihood).sum()) for probability, y in targets]


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
        for probability, log_p in scored(_outputs(model, sample), sample, n, variant, likelihood, drawn):
            total = _add(total, _squared(_gradient(model, log_p)), probability / len(samples[0]))
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
            z = outputs(model, n)
        found = scored_positions(z, variant, None if targets is None else targets[n], ignore_index)
        counted += bool(found)
        for probability, log_p in found:
            total = _add(total, _squared(_gradient(model, log_p)), probability)
    return _scaled(total, 1 / counted)


def scored_positions(z: Tensor, variant: str, targets: Tensor | None, ignore_index: int = -100) -> Scored:
    """Of one sample with logits ``z`` (positions, classes), every labelling of the positions that count."""
    log_p = torch.log_softmax(z, dim=1)
    if targets is not None:
        log_p = log_p[(targets != ignore_index).nonzero().flatten()]
    positions, classes = log_p.shape
    if not positions:
        return []
    if variant == "exact":
        labellings = list(itertools.product(range(classes), repeat=positions))
    elif variant == "predicted":
        labellings = [log_p.argmax(dim=1).tolist()]
    else:
        labellings = [[int(y) for y in targets if y != ignore_index]]
    found = []
    for labels in labellings:
        of_sample = sum(log_p[position, label] for position, label in enumerate(labels))
        found.append((float(of_sample.detach().exp()) if variant == "exact" else 1.0, of_sample))
    return found


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


# ------------------------------------------------------- Kronecker factors


def rows_of_inputs(layer: nn.Module, a: Tensor) -> Tensor:
    """What the trainable parameters of a layer are multiplied with at each position: (groups, positions, inputs).

    Args:
        layer: Linear, a convolution or an Embedding.
        a: its input on one sample, shape (1, ...).
    """
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, nn.Embedding):
        rows = torch.eye(layer.num_embeddings, dtype=torch.float64)[a.flatten()].unsqueeze(0)
        if layer.padding_idx is not None:
            rows = rows[:, a.flatten() != layer.padding_idx]
    elif isinstance(layer, nn.Linear):
        rows = a.reshape(1, -1, a.shape[-1])
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = nn.functional.pad(a, layer._reversed_padding_repeated_twice, mode=mode)[0]
        spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        starts = [
            range(0, size - span + 1, s) for size, span, s in zip(padded.shape[1:], spans, layer.stride, strict=True)
        ]
        rows = []
        for start in itertools.product(*starts):
            window = [slice(p, p + span, d) for p, span, d in zip(start, spans, layer.dilation, strict=True)]
            rows.append(padded[(slice(None), *window)].reshape(groups, -1))
        rows = torch.stack(rows, dim=1)
    parts = []
    if getattr(layer, "bias", None) is not None and layer.bias.requires_grad:
        parts.append(torch.ones(*rows.shape[:2], 1, dtype=torch.float64))
    if "weight" in layer._parameters and layer.weight.requires_grad:
        parts.append(rows)
    return torch.cat(parts, dim=2)


def rows_of_outputs(layer: nn.Module, a: Tensor, g: Tensor) -> Tensor:
    """The gradient at a layer's output on one sample, at each position: (groups, positions, outputs)."""
    if isinstance(layer, nn.Linear):
        return g.reshape(1, -1, g.shape[-1])
    if isinstance(layer, nn.Embedding):
        rows = g.reshape(-1, g.shape[-1])
        return (rows if layer.padding_idx is None else rows[a.flatten() != layer.padding_idx]).unsqueeze(0)
    return g[0].reshape(layer.groups, layer.out_channels // layer.groups, -1).mT


def _assert_gradient(layer: nn.Module, name: str, a: Tensor, g: Tensor, log_p: Tensor) -> None:
    """The reference's own check: ``Σ_t g_t a_tᵀ`` is the gradient that autograd finds."""
    product = g.mT @ a
    own = {n: p for n, p in layer._parameters.items() if n in ("weight", "bias") and p is not None and p.requires_grad}
    wanted = torch.autograd.grad(log_p, own.values(), retain_graph=True)
    for parameter, want in zip(own, wanted, strict=True):
        bias = int("bias" in own)
        got = product[:, :, 0] if parameter == "bias" else product[:, :, bias:]
        got = got[0].mT if isinstance(layer, nn.Embedding) else got.reshape(want.shape)
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12), f"the reference's rows are not those of {name}"


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """The input and output of each call of a layer in here, by the layer's name."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def record(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            calls.setdefault(name, []).append((args[0].detach(), output) if args else (None, output))
            return output.clone()  # which may be written to

        return hook

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    handles = [m.register_forward_hook(record(name)) for name, m in model.named_modules() if isinstance(m, kinds)]
    yield calls
    for handle in handles:
        handle.remove()


def factors(
    model: nn.Module,
    outputs: Outputs,
    n_samples: int,
    score: Callable[[Tensor, int], Scored],
    layers: Collection[str],
    *,
    sharing: str = "expand",
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and G of the layers named, each called once on a sample: (groups, inputs, inputs), (groups, outputs, outputs).

    Args:
        outputs: of the model in float64 and eval mode.
        score: (outputs of sample n, n) -> its targets; none if the sample does not count.
        sharing: "expand" or "reduce".
    """
    model = _double(model)
    of_inputs: dict[str, list[Tensor]] = {}
    of_outputs: Tensors = {}
    counted = 0
    for n in range(n_samples):
        with default_dtype(torch.float64), _recorded(model) as calls:
            z = outputs(model, n)
        targets = score(z, n)
        counted += bool(targets)
        for name in layers if targets else ():
            layer = model.get_submodule(name)
            for a, output in calls.get(name, []):
                if not len(a):  # the sample does not reach it
                    continue
                rows = rows_of_inputs(layer, a)
                reduced = sharing == "reduce" and not isinstance(layer, nn.Embedding)
                of_inputs.setdefault(name, []).append(rows.mean(dim=1, keepdim=True) if reduced else rows)
                for probability, log_p in targets:
                    (g,) = torch.autograd.grad(log_p, output, retain_graph=True, materialize_grads=True)
                    g = rows_of_outputs(layer, a, g)
                    if log_p.requires_grad and g.any():
                        _assert_gradient(layer, name, rows, g, log_p)
                    g = g.sum(dim=1, keepdim=True) if reduced else g
                    of_outputs[name] = of_outputs.get(name, 0) + probability * g.mT @ g
    found = {}
    for name, parts in of_inputs.items():
        rows = torch.cat(parts, dim=1)
        found[name] = rows.mT @ rows / rows.shape[1], of_outputs[name] / counted
    return found


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


def kronecker_quadratics(layers: Iterable[Any], difference: Tensors) -> Tensor:
    """``Σ_layers vec(Δ)ᵀ (A ⊗ G) vec(Δ)``, by the whole matrix, as autograd can differentiate it.

    Args:
        layers: with the names ``weight`` and ``bias`` (or None) and the factors ``inputs`` and ``outputs``.
        difference: Δ by parameter name; 0 if it is not there.
    """
    total = torch.zeros((), dtype=torch.float64)
    for weight, bias, inputs, outputs in layers:
        groups, rows = outputs.shape[:2]
        columns = []
        if bias is not None:
            columns.append(difference.get(bias, torch.zeros(groups * rows)).double().reshape(-1, 1))
        if weight is not None and inputs.ndim == 1:
            columns.append(difference[weight].double().T)
        elif weight is not None:
            sizes = groups * rows, inputs.shape[1] - len(columns)
            columns.append(difference.get(weight, torch.zeros(sizes)).double().reshape(sizes))
        whole = torch.cat(columns, dim=1)
        for group in range(groups):
            delta = whole[group * rows : (group + 1) * rows].T.flatten()  # outputs vary fastest
            a = (torch.diag(inputs) if inputs.ndim == 1 else inputs[group]).double()
            total = total + delta @ torch.kron(a, outputs[group].double()) @ delta
    return total


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
