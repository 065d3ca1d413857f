"""How each type of layer turns recorded inputs and output gradients into moments of per-sample gradients.

A rule receives the layer's input ``a`` (samples first) and the gradients ``(samples, *output)`` at the layer's output
under each of K cotangents, and returns, for each parameter θ of the layer,

    Σ_n ( Σ_k G_nk² )^(p/2),      G_nk = the gradient of sample n under cotangent k.

No weight gradient of autograd's is involved, so the samples of a batch never mix.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from clreg_plugins.checks import instance, shown

Moments = dict[str, Tensor]


CACHE_BYTES = 2**24
"""A rule's scratch at once on a CPU: many samples to a call, whose gradients are still cached when they are squared.

Without, a reduced ResNet-18's exact pass takes 1.31 and a CNN's 1.07 times as long (``study.bench.constants``)."""

MANY_POSITIONS = 128
"""Output positions from which on oneDNN's kernel for a convolution's weight gradient beats products with patches.

With products throughout, a CNN's empirical pass takes 1.15 times as long (``study.bench.constants``)."""

VECTOR = 8
"""Channels that this kernel computes together: with a rest, or fewer that come in, it is slower than the products."""

SMALL = 2**12
"""Parameters with fewer entries are reduced over samples and cotangents in one call, others sample by sample."""


def add_moment(total: Tensor, gradients: Tensor, power: int) -> None:
    """``total += Σ_n (Σ_k G_nk²)^(p/2)``, from explicit per-sample gradients ``(samples, K, *parameter)``."""
    single = gradients.shape[1] == 1
    if total.numel() < SMALL or total.device.type != "cpu":
        if power == 2:
            total += gradients.square().sum(dim=(0, 1))
        elif single:
            total += gradients.abs().sum(dim=(0, 1))
        else:
            total += gradients.square().sum(dim=1).sqrt_().sum(dim=0)
        return
    # on a CPU a reduction over the outer dimensions of a large tensor crawls; streaming additions run at memory speed
    for sample in gradients:
        if power == 2:
            for gradient in sample:
                total.addcmul_(gradient, gradient)
        elif single:
            total += sample[0].abs()
        else:
            squares = sample[0].square()
            for gradient in sample[1:]:
                squares.addcmul_(gradient, gradient)
            total += squares.sqrt_()


class LayerRule:
    """The rule of one type of layer: per-sample gradients from its input and the gradients at its output.

    A rule of your own gives :meth:`gradients`, and :attr:`parameters` if they are not weight and bias. See
    :func:`register_layer_rule`.

    Attributes:
        parameters: the names within the module that the rule covers. Others take the general path, as does the
            weight of a reparametrised layer, which goes by another name.
    """

    parameters: tuple[str, ...] = ("weight", "bias")

    def applies(self, module: nn.Module) -> bool:
        """Whether the rule holds for this module's options."""
        return True

    def dimensions(self, module: nn.Module) -> int:
        """The fewest dimensions that an input with the samples along its first can have."""
        return 2

    def prepare(self, module: nn.Module, a: Tensor) -> Tensor:
        """What :meth:`gradients` needs of the input, computed once for all cotangents. By default the input itself."""
        return a

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """Per-sample gradients by name within the module.

        Args:
            module: the layer.
            prepared: what :meth:`prepare` made of its input, shape (samples, ...).
            g: gradients at its output, shape (samples, K, *output).

        Returns:
            For each trainable parameter a tensor of shape (samples, K, *parameter).
        """
        raise TypeError(f"{type(self).__name__} does not form per-sample gradients")

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """Scratch for one sample and one cotangent, whose output gradients ``(samples, *output)`` are ``g``."""
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        return g.element_size() * (a.shape[1:].numel() + g.shape[1:].numel() + parameters)

    def cache_bytes(self, module: nn.Module, gs: Sequence[Tensor]) -> int:
        """Scratch at once on a CPU, for output gradients as in :meth:`moments`."""
        return CACHE_BYTES

    def squares(self, module: nn.Module, a: Tensor, gs: Sequence[Tensor]) -> Moments:
        """``Σ_k G_nk²`` over some cotangents, sample by sample, in a form that adds up over cotangents."""
        totals: Moments = {}
        prepared = self.prepare(module, a)
        for g in gs:
            for name, gradients in self.gradients(module, prepared, g.unsqueeze(1)).items():
                square = gradients.squeeze(1).square()
                totals[name] = totals[name].add_(square) if name in totals else square
        return totals

    def reduce(self, module: nn.Module, a: Tensor, squares: Moments, power: int) -> Moments:
        """``Σ_n (Σ_k G_nk²)^(p/2)`` from :meth:`squares` over all cotangents."""
        return {name: (square if power == 2 else square.sqrt()).sum(dim=0) for name, square in squares.items()}

    def moments(self, module: nn.Module, a: Tensor, gs: Sequence[Tensor], power: int, max_bytes: int) -> Moments:
        """The moments over all samples, in chunks whose scratch stays under ``max_bytes``.

        Args:
            module: the layer.
            a: its input, samples first.
            gs: for each cotangent, the gradients at its output ``(samples, *output)``.
            power: p.
            max_bytes: bound of the scratch; at least one sample and cotangent is taken at a time.
        """
        totals: Moments = {}
        if a.device.type == "cpu":
            max_bytes = min(max_bytes, self.cache_bytes(module, gs))
        scratch = max(1, self.bytes_per_sample(module, a, gs[0]))
        cotangents = len(gs) if power == 1 else max(1, min(len(gs), max_bytes // scratch))
        step = max(1, max_bytes // (scratch * cotangents))
        for start in range(0, a.shape[0], step):
            rows = slice(start, start + step)
            prepared = self.prepare(module, a[rows])
            for k in range(0, len(gs), cotangents):
                # stacked piece by piece: all samples at once would be as much memory again, and fresh
                parts = [g[rows] for g in gs[k : k + cotangents]]
                chunk = torch.stack(parts, dim=1) if len(parts) > 1 else parts[0].unsqueeze(1)
                for name, gradients in self.gradients(module, prepared, chunk).items():
                    if name not in totals:
                        totals[name] = gradients.new_zeros(gradients.shape[2:])
                    add_moment(totals[name], gradients, power)
        return totals


class LinearRule(LayerRule):
    """``nn.Linear``. Where it acts once on a sample, G_nk = g_nk aₙᵀ and one matrix product does everything."""

    def prepare(self, module: nn.Module, a: Tensor) -> Tensor:
        """Inputs ``(samples, positions, features)``."""
        return a.flatten(1, -2) if a.ndim > 2 else a.unsqueeze(1)

    def input_rows(self, module: nn.Module, a: Tensor) -> Tensor:
        """What the weight is multiplied with at each position: (samples, groups, positions, inputs)."""
        return self.prepare(module, a).unsqueeze(1)

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """The gradients at the product ``(samples, *output)``: (samples, groups, positions, outputs)."""
        return g.reshape(g.shape[0], 1, -1, g.shape[-1])

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """``Σ_positions g aᵀ`` and ``Σ_positions g``."""
        n, k, out = g.shape[0], g.shape[1], g.shape[-1]
        g = g.reshape(n, k, -1, out)
        rows = g.transpose(2, 3).reshape(n, k * out, -1)
        return {"weight": (rows @ prepared).view(n, k, out, -1), "bias": g.sum(dim=2)}

    def moments(self, module: nn.Module, a: Tensor, gs: Sequence[Tensor], power: int, max_bytes: int) -> Moments:
        """One matrix product where there is one position, else as any layer."""
        if a.ndim > 2:
            return super().moments(module, a, gs, power, max_bytes)
        return self.reduce(module, a, self.squares(module, a, gs), power)

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """As any layer's, and output gradients once more, with positions last."""
        return super().bytes_per_sample(module, a, g) + g.element_size() * g.shape[1:].numel()

    def squares(self, module: nn.Module, a: Tensor, gs: Sequence[Tensor]) -> Moments:
        """``Σ_k g_k²`` (samples, outputs) where there is one position, else as any layer."""
        return super().squares(module, a, gs) if a.ndim > 2 else {"outputs": sum(g.square() for g in gs)}

    def reduce(self, module: nn.Module, a: Tensor, squares: Moments, power: int) -> Moments:
        """``(Σ_k g_k²)ᵀ a²`` for p = 2 and ``(Σ_k g_k²)^½ᵀ |a|`` for p = 1."""
        if a.ndim > 2:
            return super().reduce(module, a, squares, power)
        left = squares["outputs"] if power == 2 else squares["outputs"].sqrt()
        right = a.square() if power == 2 else a.abs()
        return {"weight": left.T @ right, "bias": left.sum(dim=0)}


class ConvRule(LayerRule):
    """``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d`` with any stride, padding, dilation and groups."""

    def dimensions(self, module: nn.Module) -> int:
        """Samples, channels and space; without samples there is one less."""
        return 2 + len(module.kernel_size)

    def prepare(self, module: nn.Module, a: Tensor) -> Tensor:
        """The input, padded by all but zeros that a kernel pads by itself."""
        padding = module._reversed_padding_repeated_twice
        if not any(padding) or self._own_padding(module) is not None:
            return a
        return F.pad(a, padding, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)

    @staticmethod
    def _own_padding(module: nn.Module) -> tuple[int, ...] | None:
        """Zeros of each axis, as many before as after it; None for any other padding."""
        padding = tuple(module._reversed_padding_repeated_twice)
        own = module.padding_mode == "zeros" and padding[::2] == padding[1::2]
        return padding[::-2] if own else None

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """``Σ_positions g patchᵀ``, group by group, and ``Σ_positions g``."""
        n, k, out = g.shape[:3]
        groups = module.groups
        rows = g.reshape(n, k, groups, out // groups, -1).transpose(1, 2)
        if self._has_kernel(module, g[:, 0]):
            weight = self.by_groups(module, prepared, rows, g.shape[3:])
        else:
            weight = rows.flatten(2, 3) @ self.patches(module, prepared).mT
        weight = weight.view(n, groups, k, out // groups, -1)
        weight = weight.transpose(1, 2).reshape(n, k, *module.weight.shape)
        return {"weight": weight} if module.bias is None else {"weight": weight, "bias": g.flatten(3).sum(dim=3)}

    @staticmethod
    def _has_kernel(module: nn.Module, g: Tensor) -> bool:
        """Whether one kernel for all samples is the faster: oneDNN's is, at many positions and with whole vectors."""
        of_onednn = g.device.type == "cpu" and g.dtype == torch.float32 and torch.backends.mkldnn.is_available()
        into, out = module.in_channels // module.groups, module.out_channels // module.groups
        return of_onednn and into >= VECTOR and out % VECTOR == 0 and g.shape[2:].numel() >= MANY_POSITIONS

    @staticmethod
    def by_groups(module: nn.Module, a: Tensor, rows: Tensor, positions: torch.Size) -> Tensor:
        """One convolution's weight gradient, in which every group of every sample is a group.

        Args:
            a: what :meth:`prepare` gave (samples, channels, *space).
            rows: output gradients (samples, groups, K, channels/groups, positions).
            positions: shape of the output's space.
        """
        n, groups, k, out = rows.shape[:4]
        weight_gradient = (conv1d_weight, conv2d_weight, conv3d_weight)[len(positions) - 1]
        return weight_gradient(
            a.reshape(1, -1, *a.shape[2:]),
            (n * groups * k * out, *module.weight.shape[1:]),
            rows.reshape(1, -1, *positions),
            stride=module.stride,
            padding=ConvRule._own_padding(module) or 0,
            dilation=module.dilation,
            groups=n * groups,
        )

    def input_rows(self, module: nn.Module, a: Tensor) -> Tensor:
        """The patch at each position: (samples, groups, positions, inputs), channels before kernel."""
        return self.patches(module, self.prepare(module, a)).mT

    def output_rows(self, module: nn.Module, g: Tensor) -> Tensor:
        """The gradients ``(samples, *output)`` as (samples, groups, positions, outputs)."""
        return g.reshape(g.shape[0], module.groups, module.out_channels // module.groups, -1).mT

    @staticmethod
    def patches(module: nn.Module, a: Tensor) -> Tensor:
        """What the kernel meets in each sample: (samples, groups, inputs, positions).

        Args:
            module: the layer.
            a: what :meth:`prepare` gave (samples, channels, *space).
        """
        space = len(module.kernel_size)
        own = ConvRule._own_padding(module)
        if own is not None and any(own):
            a = F.pad(a, module._reversed_padding_repeated_twice)
        for axis, (dilation, kernel) in enumerate(zip(module.dilation, module.kernel_size, strict=True)):
            a = a.unfold(2 + axis, dilation * (kernel - 1) + 1, module.stride[axis])[..., ::dilation]
        order = (0, 1, *range(2 + space, 2 + 2 * space), *range(2, 2 + space))
        return a.permute(order).reshape(len(a), module.groups, -1, a.shape[2 : 2 + space].numel())

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """Padded input and perhaps patches of one sample, output gradients as they are and in groups, its gradient."""
        padding = module._reversed_padding_repeated_twice[::-1]  # of each axis: after it, before it
        entries = module.in_channels * math.prod(map(sum, zip(a.shape[2:], padding[::2], padding[1::2], strict=True)))
        if not self._has_kernel(module, g):
            entries += module.in_channels * math.prod(module.kernel_size) * g.shape[2:].numel()
        return g.element_size() * (entries + 2 * g.shape[1:].numel() + module.weight.numel())

    def cache_bytes(self, module: nn.Module, gs: Sequence[Tensor]) -> int:
        """Half for oneDNN's kernel where there is one cotangent: it is slow with more samples, and so more groups."""
        if not self._has_kernel(module, gs[0]):
            return CACHE_BYTES
        return CACHE_BYTES if len(gs) > 1 else CACHE_BYTES // 2


class NormRule(LayerRule):
    """Normalisation with weight and bias: G = Σ over positions of g·x̂ and of g, with x̂ the normalised input."""

    def __init__(self, normalise: Callable[[nn.Module, Tensor], Tensor], last_dimensions: bool) -> None:
        self.normalise = normalise
        self.last_dimensions = last_dimensions  # LayerNorm's parameters span the last dimensions, else dimension 1

    def applies(self, module: nn.Module) -> bool:
        """BatchNorm without running statistics mixes the samples of a batch."""
        return not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is not None

    def dimensions(self, module: nn.Module) -> int:
        """Samples, and the dimensions of the parameters."""
        return 1 + len(module.weight.shape)

    def prepare(self, module: nn.Module, a: Tensor) -> Tensor:
        """The normalised input x̂."""
        return self.normalise(module, a)

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """``Σ_positions g x̂`` and ``Σ_positions g``."""
        last = g.ndim - module.weight.ndim
        positions = tuple(range(2, last) if self.last_dimensions else range(3, g.ndim))
        product = g * prepared.unsqueeze(1)
        if positions:
            product, g = product.sum(dim=positions), g.sum(dim=positions)
        return {"weight": product, "bias": g}

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """The normalised input, output gradients, and their products."""
        return 4 * g.element_size() * a.shape[1:].numel()


class EmbeddingRule(LayerRule):
    """``nn.Embedding``: a token's row collects the gradient of every place where the sample holds that token."""

    def applies(self, module: nn.Module) -> bool:
        """Renormalisation writes to the weight in the forward pass; frequency scaling mixes the batch."""
        return module.max_norm is None and not module.scale_grad_by_freq and not module.sparse

    def dimensions(self, module: nn.Module) -> int:
        """Samples; each may be one token."""
        return 1

    def moments(self, module: nn.Module, a: Tensor, gs: Sequence[Tensor], power: int, max_bytes: int) -> Moments:
        """By the (sample, token) pairs that occur."""
        return self.reduce(module, a, self.squares(module, a, gs), power)

    def squares(self, module: nn.Module, a: Tensor, gs: Sequence[Tensor]) -> Moments:
        """Summed over the places of each (sample, token) pair: (pairs, features)."""
        pairs, place = self._pairs(module, a).unique(return_inverse=True)
        squares = gs[0].new_zeros(len(pairs), gs[0].shape[-1])
        for g in gs:
            sums = torch.zeros_like(squares).index_add_(0, place, g.reshape(-1, g.shape[-1]))
            squares.addcmul_(sums, sums)
        return {"pairs": squares}

    def reduce(self, module: nn.Module, a: Tensor, squares: Moments, power: int) -> Moments:
        """Summed over the samples that hold a token."""
        pairs, total = squares["pairs"], torch.zeros_like(module.weight, dtype=squares["pairs"].dtype)
        token = self._pairs(module, a).unique() % module.num_embeddings
        total.index_add_(0, token, pairs if power == 2 else pairs.sqrt())
        if module.padding_idx is not None:
            total[module.padding_idx] = 0
        return {"weight": total}

    @staticmethod
    def _pairs(module: nn.Module, a: Tensor) -> Tensor:
        """A number for the sample and token at each place."""
        samples = torch.arange(len(a), device=a.device)[:, None]
        return (a.reshape(len(a), -1) + module.num_embeddings * samples).flatten()


def shape_within(dimensions: int, parameter: Tensor) -> tuple[int, ...]:
    """The parameter's shape with leading ones, as broadcast to a tensor of this many dimensions."""
    return (1,) * (dimensions - parameter.ndim) + tuple(parameter.shape)


class SummandRule(LayerRule):
    """A parameter that is added or expanded, the same for all samples: G = Σ g over where it is the same."""

    def dimensions(self, module: nn.Module) -> int:
        """Samples."""
        return 1

    def gradients(self, module: nn.Module, prepared: Tensor, g: Tensor) -> Moments:
        """g, summed over the dimensions in which the parameter was expanded."""
        shape = shape_within(g.ndim - 1, module.weight)
        expanded = [i + 1 for i, size in enumerate(shape) if i > 0 and size == 1]
        total = g.sum(dim=expanded, keepdim=True) if expanded else g
        return {"weight": total.reshape(*g.shape[:2], *module.weight.shape)}

    def bytes_per_sample(self, module: nn.Module, a: Tensor, g: Tensor) -> int:
        """Output gradients, as they are and summed."""
        return 2 * g.element_size() * g.shape[1:].numel()


def _batch_norm(module: nn.Module, a: Tensor) -> Tensor:
    mean, variance = module.running_mean.to(a.dtype), module.running_var.to(a.dtype)
    return F.batch_norm(a, mean, variance, training=False, eps=module.eps)


def _layer_norm(module: nn.Module, a: Tensor) -> Tensor:
    return F.layer_norm(a, module.normalized_shape, eps=module.eps)


def _rms_norm(module: nn.Module, a: Tensor) -> Tensor:
    return F.rms_norm(a, module.normalized_shape, eps=module.eps)


def _group_norm(module: nn.Module, a: Tensor) -> Tensor:
    return F.group_norm(a, module.num_groups, eps=module.eps)


_RULES: dict[type[nn.Module], LayerRule] = {
    nn.Linear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.Embedding: EmbeddingRule(),
    nn.LayerNorm: NormRule(_layer_norm, last_dimensions=True),
    nn.RMSNorm: NormRule(_rms_norm, last_dimensions=True),
    nn.GroupNorm: NormRule(_group_norm, last_dimensions=False),
    nn.BatchNorm1d: NormRule(_batch_norm, last_dimensions=False),
    nn.BatchNorm2d: NormRule(_batch_norm, last_dimensions=False),
    nn.BatchNorm3d: NormRule(_batch_norm, last_dimensions=False),
}


def register_layer_rule(kind: type[nn.Module], rule: LayerRule) -> None:
    """Give a type of layer a rule, for every importance from now on; it replaces an existing one.

    The rule is checked like the package's own: on the first samples of every pass its numbers are compared with
    autograd's, and where they differ the general path computes the importance, with a warning that names the
    parameters. It serves a subclass of ``kind``, too, unless that has a forward of its own.

    Args:
        kind: a subclass of ``torch.nn.Module`` whose forward takes one tensor, samples first, and returns one.
        rule: an instance of a subclass of :class:`LayerRule`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: the rule names no parameter.

    Example:
        >>> class Scale(nn.Module):
        ...     def __init__(self, features):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(torch.ones(features))
        ...
        ...     def forward(self, x):
        ...         return x * self.scale
        >>> class ScaleRule(LayerRule):
        ...     parameters = ("scale",)
        ...
        ...     def gradients(self, module, prepared, g):
        ...         return {"scale": g * prepared.unsqueeze(1)}
        >>> register_layer_rule(Scale, ScaleRule())
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"kind is {shown(kind)}; allowed: a subclass of torch.nn.Module")
    instance("rule", rule, LayerRule, "an instance of a subclass of LayerRule")
    names = rule.parameters
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{type(rule).__name__}.parameters is {shown(names)}; allowed: a tuple of names")
    _RULES[kind] = rule


def rule_for(module: nn.Module) -> LayerRule | None:
    """The rule of a module's type, or of the type whose forward a subclass inherits unchanged; None without."""
    for kind in type(module).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            unchanged = type(module).forward is kind.forward and "forward" not in vars(module)
            return rule if unchanged and rule.applies(module) else None
    return None
