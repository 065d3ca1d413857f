"""What a rule is: how a layer's recorded input and output gradients become moments of per-sample gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Moments = dict[str, Tensor]

CACHE_BYTES = 2**24
"""A rule's scratch at once on a CPU: many samples to a call, whose gradients are still cached when they are squared.

Without, a reduced ResNet-18's exact pass takes 1.31 and a CNN's 1.07 times as long (``study.bench.constants``)."""

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
