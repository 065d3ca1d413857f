"""The rule of convolutions."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from clreg_plugins.importance.engine.layer_rules.rule import CACHE_BYTES, LayerRule, Moments

MANY_POSITIONS = 128
"""Output positions from which on oneDNN's kernel for a convolution's weight gradient beats products with patches.

With products throughout, a CNN's empirical pass takes 1.15 times as long (``study.bench.constants``)."""

VECTOR = 8
"""Channels that this kernel computes together: with a rest, or fewer that come in, it is slower than the products."""


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
