"""The rule of embeddings."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clreg_plugins.importance.engine.layer_rules.rule import LayerRule, Moments


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
