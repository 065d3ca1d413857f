"""Kronecker factors of layers, summed over a pass: second moments of inputs and of gradients at outputs.

For a layer with inputs a and output gradients g_k under cotangents k = 1…K, at T positions of each of N samples
(Martens and Grosse 2015; for T > 1 the conventions of Eschenhagen et al. 2023, arXiv:2311.00636):

    "expand":  A = 1/NT Σ_n Σ_t a aᵀ     G = 1/N Σ_n Σ_t Σ_k g_k g_kᵀ      positions as if they were samples
    "reduce":  A = 1/N Σ_n ā āᵀ          G = 1/N Σ_n Σ_k ĝ_k ĝ_kᵀ          ā their mean, ĝ_k their sum

With one position the two agree. If some samples skip a layer, A averages over those that reach it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clreg_plugins.factors import Factors, Shapes, embedding_shapes, factor_shapes
from clreg_plugins.importance.engine.layer_path import Found, LayerPath
from clreg_plugins.importance.engine.layer_rules import ConvRule, EmbeddingRule, LayerRule, LinearRule, Moments
from clreg_plugins.importance.engine.model import plain_name, state_dtype
from clreg_plugins.importance.engine.recording import Recorder
from clreg_plugins.importance.engine.verification import Calls, output_gradients

WEIGHT_SHARING = ("expand", "reduce")

MAX_WIDTH = 10_000
"""Rows of the widest factor by default: 400 MB in float32."""


class FactorOptions(NamedTuple):
    """What a pass over Kronecker factors measures.

    Attributes:
        weight_sharing: the convention for several positions.
        max_width: rows of the widest factor; a layer that needs a wider one keeps the diagonal.
    """

    weight_sharing: str
    max_width: int


PRODUCTS = (LinearRule, ConvRule, EmbeddingRule)
"""The rules of layers that multiply a weight with rows of inputs. A subclass may do more, and has no factors."""


class FactorSums:
    """The sums behind one layer's factors.

    Args:
        module: the layer, whose rule is one of :data:`PRODUCTS`.
        rule: its rule.
        zeros: the sums over no samples, with the names of the weight and the bias in the model.
        reduce: the convention for several positions.
        max_bytes: bound of the scratch.
    """

    def __init__(self, module: nn.Module, rule: LayerRule, zeros: Factors, reduce: bool, max_bytes: int) -> None:
        self.module, self.rule, self.reduce, self.max_bytes = module, rule, reduce, max_bytes
        self.weight, self.bias, self.inputs, self.outputs = zeros
        self.rows = torch.zeros((), dtype=torch.int64, device=self.inputs.device)

    def add(self, other: "FactorSums") -> None:
        """Add the sums of other samples."""
        for own, more in zip(self.tensors, other.tensors, strict=True):
            own += more

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """``Σ a aᵀ``, ``Σ g gᵀ``, and the number of rows in the former."""
        return self.inputs, self.outputs, self.rows

    def add_inputs(self, a: Tensor) -> None:
        """Add ``Σ a aᵀ`` of the layer's inputs (samples, ...)."""
        if isinstance(self.rule, EmbeddingRule):
            tokens = a.flatten()[self._not_padding(a)]
            self.inputs += tokens.bincount(minlength=len(self.inputs)).to(self.inputs)
            self.rows += len(tokens)
            return
        a = a.to(self.inputs.dtype)
        # an input as a row at each position, and the copy that has the bias's 1
        of_one_sample = 2 * self.rule.input_rows(self.module, a[:1]).nbytes
        step = max(1, self.max_bytes // max(1, of_one_sample))
        for part in a.split(step):
            rows = self.rule.input_rows(self.module, part)
            if self.reduce:
                rows = rows.mean(dim=2, keepdim=True)
            if self.weight is None:
                rows = rows[..., :0]
            if self.bias is not None:
                rows = torch.cat([rows.new_ones(*rows.shape[:3], 1), rows], dim=-1)
            rows = rows.transpose(0, 1).flatten(1, 2)
            self.inputs.baddbmm_(rows.mT, rows)
            self.rows += rows.shape[1]

    def add_outputs(self, a: Tensor, g: Tensor) -> None:
        """Add ``Σ g gᵀ`` of gradients at the layer's outputs (samples, *output), for its inputs ``a``."""
        g = g.to(self.outputs.dtype)
        if isinstance(self.rule, EmbeddingRule):
            rows = g.reshape(-1, g.shape[-1])[self._not_padding(a)].unsqueeze(0)
        else:
            rows = self.rule.output_rows(self.module, g)
            if self.reduce:
                rows = rows.sum(dim=2, keepdim=True)
            rows = rows.transpose(0, 1).flatten(1, 2)
        self.outputs.baddbmm_(rows.mT, rows)

    def factors(self, samples: int) -> Factors:
        """The factors over this many samples."""
        return Factors(self.weight, self.bias, self.inputs / self.rows, self.outputs / samples)

    def _not_padding(self, tokens: Tensor) -> Tensor:
        """The places of an embedding's input whose token has a gradient."""
        padding = self.module.padding_idx
        return torch.ones_like(tokens, dtype=torch.bool).flatten() if padding is None else (tokens != padding).flatten()


class FactorPath(LayerPath):
    """The fast path of a pass over factors: layers that are products have factors, others their rule's moments.

    Args:
        model: without wrappers.
        trainable: the model's parameters that require gradients, by its own names.
        recorder: what it records of layers.
        max_bytes: bound of a pass, of which rules take an eighth as scratch.
        options: what to measure.
    """

    def __init__(
        self,
        model: nn.Module,
        trainable: dict[str, nn.Parameter],
        recorder: Recorder,
        max_bytes: int,
        options: FactorOptions,
    ) -> None:
        super().__init__(trainable, recorder, 2, max_bytes)
        self._reduce = options.weight_sharing == "reduce"
        own_names = {module: name for name, module in model.named_modules()}
        self._layers: dict[nn.Module, str] = {}
        for module, rule in recorder.rules.items():
            weight, bias = self._measured(module)
            if type(rule) not in PRODUCTS or (weight is None and bias is None):
                continue
            if max(shape[-1] for shape in self._shapes(module) if len(shape) > 1) > options.max_width:
                continue
            # a projection of attention is no module of its own: it goes by its weight's name
            name = own_names.get(
                module, (weight or bias or "").removesuffix("weight").removesuffix("bias").rstrip("_.")
            )
            self._layers[module] = plain_name(f"{name}.").removesuffix(".")
        holders = {
            (parameter, layer) for module, layer in self._layers.items() for parameter in self.names[module].values()
        }
        layers_of = Counter(parameter for parameter, _ in holders)
        # without layers that share a parameter, even if no forward pass calls two of them
        self._layers = {
            module: layer
            for module, layer in self._layers.items()
            if all(layers_of[parameter] == 1 for parameter in self.names[module].values())
        }
        self._sums: dict[nn.Module, FactorSums] = {}

    def no_sums(self) -> dict[str, FactorSums]:
        """Sums over no samples, by layer, the same layers in the same order in every process."""
        return {name: self._no_sums(module) for module, name in self._layers.items()}

    def _measured(self, module: nn.Module) -> tuple[str | None, str | None]:
        return self.names[module].get("weight"), self.names[module].get("bias")

    def _shapes(self, module: nn.Module) -> Shapes:
        weight, bias = self._measured(module)
        shape = self.trainable[bias if weight is None else weight].shape
        if isinstance(self.recorder.rules[module], EmbeddingRule):
            return embedding_shapes(shape)
        return factor_shapes(shape, getattr(module, "groups", 1), weight is not None, bias is not None)

    def _no_sums(self, module: nn.Module) -> FactorSums:
        weight, bias = self._measured(module)
        # not module.weight, which may be computed by each look at it, as spectral norm does, and change with that
        like = self.trainable[bias if weight is None else weight]
        sums = (torch.zeros(n, dtype=state_dtype(like), device=like.device) for n in self._shapes(module))
        names = (None if name is None else plain_name(name) for name in (weight, bias))
        return FactorSums(module, self.recorder.rules[module], Factors(*names, *sums), self._reduce, self.scratch)

    @torch.no_grad()
    def moments(self, calls: Calls, z: Tensor, vectors: Iterator[Tensor], counted: Tensor | None = None) -> Found:
        """The factors' sums of the layers that have them, and the diagonal of the others.

        A layer whose rows are not known to be samples keeps the diagonal, which is the same if they are not.
        """
        self._sums = {}
        for module in (module for module in calls if module in self._layers and module in self.sure):
            inputs = calls[module].inputs
            if counted is not None:  # the others have no gradient, but inputs, which must not be among those of A
                inputs = inputs[self._rows_that_count(self.owners[module], counted)]
            if len(inputs):
                self._sums[module] = sums = self._no_sums(module)
                sums.add_inputs(inputs)
        found = super().moments(calls, z, vectors)
        names = {name for module in self._sums for name in self.names[module].values()}
        factors = {self._layers[module]: sums for module, sums in self._sums.items()}
        self._sums = {}
        return Found(found.moments, found.parameters | names, factors)

    @staticmethod
    def _rows_that_count(owner: Tensor, counted: Tensor) -> Tensor:
        """Which rows of a layer are of samples that count; ``owner`` is -1 where no output depends on a row."""
        owner, counted = owner.cpu(), counted.cpu()
        if len(owner) == len(counted):
            owner = torch.where(owner < 0, torch.arange(len(owner)), owner)
        return (owner >= 0) & counted[owner.clamp(min=0)]

    def _gather(
        self, calls: Calls, z: Tensor, group: list[Tensor], squares: dict[nn.Module, Moments]
    ) -> dict[nn.Module, list[Tensor]]:
        gathered: dict[nn.Module, list[Tensor]] = {}
        for v in group:
            for (module, call), g in zip(calls.items(), output_gradients(z, calls, v), strict=True):
                if g is None:
                    continue
                if module in self._sums:
                    self._sums[module].add_outputs(call.inputs, g)
                else:
                    gathered.setdefault(module, []).append(g)
        return gathered
