"""The rule of linear layers."""

from collections.abc import Sequence

from torch import Tensor, nn

from clreg_plugins.importance.engine.layer_rules.rule import LayerRule, Moments


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
