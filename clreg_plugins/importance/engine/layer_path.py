"""The fast path: moments of the parameters of layers that have a rule, from the gradients at the layers' outputs."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clreg_plugins.importance.engine.forward_pass import is_out_of_memory
from clreg_plugins.importance.engine.general_path import in_groups
from clreg_plugins.importance.engine.layer_rules import LinearRule, Moments
from clreg_plugins.importance.engine.model import state_dtype
from clreg_plugins.importance.engine.recording import Graph, Recorder
from clreg_plugins.importance.engine.verification import Calls, LayoutCheck, Verdict, output_gradients, verify


class Found(NamedTuple):
    """What the fast path makes of a piece.

    Attributes:
        moments: the diagonal, by the model's names of parameters.
        parameters: names of those that need no other path.
        factors: sums behind the Kronecker factors of layers, in a pass over those.
    """

    moments: Moments
    parameters: set[str]
    factors: Mapping[str, Any] = {}


class LayerPath:
    """Which layers' rules hold in a model, and their moments.

    Args:
        trainable: the model's parameters that require gradients, by its own names.
        recorder: what it records of layers.
        power: p.
        max_bytes: bound of a pass, of which rules take an eighth as scratch.
    """

    def __init__(self, trainable: dict[str, nn.Parameter], recorder: Recorder, power: int, max_bytes: int) -> None:
        self.trainable, self.recorder, self.power, self.scratch = trainable, recorder, power, max_bytes // 8
        full = {id(p): name for name, p in trainable.items()}
        self.names = {  # of each layer with a rule: name within the layer -> name within the model
            module: {
                n: full[id(p)]
                for n, p in module.named_parameters(recurse=False)
                if id(p) in full and n in rule.parameters
            }
            for module, rule in recorder.rules.items()
        }
        # each with whether it was among several samples, and their task label
        self._trusted: set[tuple[nn.Module, bool, int | None]] = set()
        self._distrusted: set[nn.Module] = set()
        self._partial: set[nn.Module] = set()  # met with rows that are not all samples: never trusted
        self.sure: set[nn.Module] = set()  # among several samples each of their rows has felt one alone
        self.owners: dict[nn.Module, Tensor] = {}  # the sample of each row, of the layers whose layout was checked

    @property
    def trusts(self) -> bool:
        """Whether a layer's rule has been found to hold."""
        return bool(self._trusted)

    # ----------------------------------------------------------- which rules hold

    def usable(self, graph: Graph, n: int) -> Calls:
        """Layers called exactly once, on something that can be one row per sample, each weight used just there."""
        usable = {}
        # autocast casts a weight once however often it is used, so that a shared one counts by its holders, too
        holders = Counter(id(p) for module in self.recorder.calls for p in module.parameters(recurse=False))
        for module, calls in self.recorder.calls.items():
            parameters = list(module.parameters(recurse=False))
            used_once = all(graph.uses[id(p)] <= 1 and holders[id(p)] == 1 for p in parameters)
            hooked = any(p._backward_hooks for p in parameters)
            if len(calls) != 1 or calls[0] is None or not used_once or hooked or not self.names[module]:
                continue
            a = calls[0].inputs
            if a.shape[:1] != (n,):
                self._partial.add(module)
            if a.ndim >= self.recorder.rules[module].dimensions(module) and a.shape[0] <= n:
                usable[module] = calls[0]
        return usable

    @torch.no_grad()
    def verified(self, calls: Calls, graph: Graph, look: bool, task: int | None) -> Calls:
        """Those of ``calls`` whose rule holds, each checked until there is evidence; warns if one is wrong.

        Args:
            look: check the layout of all layers, for instance since the forward pass moved rows by what samples hold.
            task: the label that all samples share, or None; a model may use a layer in another way for each.
        """
        z, several = graph.outputs, len(graph.outputs) > 1  # from one sample alone a layout cannot be told
        calls = {module: call for module, call in calls.items() if module not in self._distrusted}
        self._trusted = {each for each in self._trusted if each[0] not in self._partial}
        unknown = {module: call for module, call in calls.items() if (module, several, task) not in self._trusted}
        to_check = calls if look else unknown
        if not to_check:
            return calls
        layout = LayoutCheck(z, to_check)
        self.owners = {module: owner for module, owner in layout.owners.items() if owner is not None}
        self._distrusted |= {module for module in to_check if layout.owners[module] is None}
        parameters = {module: self._own(module) for module in unknown}
        verdicts = verify(z, unknown, layout, parameters, self._tried, graph.epsilon)
        wrong = [module for module, verdict in verdicts.items() if verdict is Verdict.WRONG]
        holds = {module for module, verdict in verdicts.items() if verdict is Verdict.HOLDS}
        self._trusted |= {(module, several, task) for module in holds - self._partial}
        self._distrusted |= set(wrong)
        self.sure |= set(calls) - self._distrusted if several else set()
        if wrong:
            names = ", ".join(full for module in wrong for full in self.names[module].values())
            warnings.warn(
                f"the fast rule for {names} disagrees with autograd in this model; "
                "the general path computes their importance, slower and right",
                stacklevel=2,
            )
        return {module: call for module, call in calls.items() if module not in self._distrusted}

    # -------------------------------------------------------------------- moments

    @torch.no_grad()
    def moments(self, calls: Calls, z: Tensor, vectors: Iterator[Tensor], counted: Tensor | None = None) -> Found:
        """``Σ_n (Σ_k G_nk²)^(p/2)`` of the layers called.

        Args:
            calls: layers whose rule holds.
            z: the model's outputs.
            vectors: the cotangents, of which a few at a time are held. They are 0 for samples that do not count.
            counted: which samples count; None if all do.
        """
        result: Moments = {}
        squares: dict[nn.Module, Moments] = {}  # Σ_k so far, sample by sample
        groups = in_groups(vectors) if calls else iter(())
        group, held_over = next(groups, None), False
        while group is not None:
            # for p = 1 all cotangents count together; for p = 2 there is no need to hold those that follow
            following = next(groups, None) if self.power == 1 else None
            at_once = self.power == 2 or (following is None and not held_over)
            for module, gs in self._gather(calls, z, group, squares).items():
                if at_once:
                    moments = self._moments(module, calls[module].inputs, gs, self.power)
                    for name, value in moments.items():
                        result[name] = result[name].add_(value) if name in result else value
                else:
                    a, gs = self._in_state_dtype(calls[module].inputs, gs)
                    _add(squares.setdefault(module, {}), self.recorder.rules[module].squares(module, a, gs))
            held_over |= not at_once
            group = next(groups, None) if self.power == 2 else following
        for module, total in squares.items():
            a, _ = self._in_state_dtype(calls[module].inputs, list(total.values()))
            moments = self.recorder.rules[module].reduce(module, a, total, self.power)
            result.update({full: moments[n] for n, full in self.names[module].items() if n in moments})
        return Found(result, set(result))

    def _gather(
        self, calls: Calls, z: Tensor, group: list[Tensor], squares: dict[nn.Module, Moments]
    ) -> dict[nn.Module, list[Tensor]]:
        """The gradients at layers' outputs; those of which only squares are needed are added to ``squares``."""
        gathered: dict[nn.Module, list[Tensor]] = {}
        for v in group:
            for module, g in zip(calls, output_gradients(z, calls, v), strict=True):
                if g is None:
                    continue
                if type(self.recorder.rules[module]) is LinearRule and g.ndim == 2:
                    g = g.to(state_dtype(g))
                    total = squares.setdefault(module, {})
                    total["outputs"] = total["outputs"].addcmul_(g, g) if total else g.square()
                else:
                    gathered.setdefault(module, []).append(g)
        return gathered

    def _moments(self, module: nn.Module, a: Tensor, gs: list[Tensor], power: int) -> Moments:
        if not len(a):  # no sample of the batch came by
            return {full: torch.zeros_like(p, dtype=state_dtype(p)) for full, p in self._own(module).items()}
        a, gs = self._in_state_dtype(a, gs)
        moments = self.recorder.rules[module].moments(module, a, gs, power, self.scratch)
        return {full: moments[name] for name, full in self.names[module].items() if name in moments}

    def _tried(self, module: nn.Module, a: Tensor, g: Tensor) -> Moments:
        """The rule's moments under a cotangent, from it alone and from it and its negative, which a sum would cancel.

        An error says whose rule it is.
        """
        try:
            once, twice = (self._moments(module, a, gs, 2) for gs in ([g], [g, -g]))
            return {name: (once[name] + value) / 3 for name, value in twice.items()}
        except Exception as error:
            if is_out_of_memory(error):
                raise
            rule, names = type(self.recorder.rules[module]).__name__, ", ".join(self.names[module].values())
            raise RuntimeError(f"the rule {rule} for {names} raised {type(error).__name__}: {error}") from error

    @staticmethod
    def _in_state_dtype(a: Tensor, gs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        dtype = state_dtype(gs[0])
        return a.to(dtype) if a.is_floating_point() else a, [g.to(dtype) for g in gs]

    def _own(self, module: nn.Module) -> dict[str, Tensor]:
        """The parameters that a layer's rule speaks of, by their names in the model."""
        return {full: self.trainable[full] for full in self.names[module].values()}


def _add(total: Moments, part: Moments) -> None:
    for name, value in part.items():
        total[name] = total[name].add_(value) if name in total else value
