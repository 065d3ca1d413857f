"""One pass over the data: batch by batch, each cut into pieces that fit the memory."""

import warnings
from collections import deque

import torch
from torch import Generator, Tensor, nn

from clreg_plugins.importance.engine.batch import Batch
from clreg_plugins.importance.engine.cotangents import Cotangents
from clreg_plugins.importance.engine.factors import FactorOptions, FactorPath
from clreg_plugins.importance.engine.forward_pass import ForwardPass, is_out_of_memory, squares_of
from clreg_plugins.importance.engine.general_path import GeneralPath, refuse_mixing
from clreg_plugins.importance.engine.layer_path import Found, LayerPath
from clreg_plugins.importance.engine.layer_rules import Moments
from clreg_plugins.importance.engine.memory import samples_at_a_time
from clreg_plugins.importance.engine.model import Forward
from clreg_plugins.importance.engine.modes import choose_mode
from clreg_plugins.importance.engine.recording import Graph, Recorder
from clreg_plugins.importance.engine.routing import OpaqueRouting
from clreg_plugins.importance.engine.snapshot import Snapshot
from clreg_plugins.importance.engine.totals import Totals

CHECKED_SAMPLES = 8
"""Size of the pieces in which the rules of layers are first checked."""

MANY_COTANGENTS = 1000
"""Backward passes for each sample from which on a pass says what it costs before it starts."""


class Pass:
    """One pass over the data, on a model that the caller puts back, see :func:`.moments.measured`.

    Args:
        model: without wrappers.
        base: its state before the pass.
        cotangents: what is pulled back.
        power: p.
        forward: how to call the model.
        generator: of the draws of cotangents.
        max_bytes: bound of memory.
        path: "auto", "vectorised" or "one_at_a_time".
        factors: how to measure Kronecker factors; None measures the diagonal.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Snapshot,
        *,
        cotangents: Cotangents,
        power: int,
        forward: Forward,
        generator: Generator,
        max_bytes: int,
        path: str,
        factors: FactorOptions | None = None,
    ) -> None:
        self.model, self.base, self.cotangents, self.power = model, base, cotangents, power
        self.generator, self.max_bytes, self.path = generator, max_bytes, path
        # a layer's own names, so that functional_call finds them; totals carry the names without wrappers
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.recorder = Recorder(model)
        self.run = ForwardPass(model, forward, self.recorder, base)
        self._factored = factors is not None
        if factors is None:
            self.layers, self.totals = LayerPath(self.trainable, self.recorder, power, max_bytes), Totals(model)
        else:
            self.layers = FactorPath(model, self.trainable, self.recorder, max_bytes, factors)
            self.totals = Totals(model, self.layers.no_sums())
        self.general = GeneralPath(self.run, cotangents, power, generator, max_bytes, path)
        self.reached = False  # whether any output has had a graph
        self.mode = "eval"
        self._prepared = False
        self._checking = path == "auto"  # layers, until a piece has none to check or one of them is trusted
        self._divisible = True  # whether the model can be run on a part of a batch
        self._size: int | None = None

    # ---------------------------------------------------------------- the first batch

    def _prepare(self, batch: Batch) -> None:
        """Choose the mode in which the model is measured, and see what a sample takes."""
        self._prepared = True

        z = torch.empty(0)

        def reached() -> set[str]:
            nonlocal z
            self._divisible = True  # a mode that is not chosen says nothing of it
            self.run.snapshot, self.run.draws = Snapshot(self.model, self.max_bytes // 4, self.base), False
            with OpaqueRouting(self.run):
                graph = Graph(self._few(batch))
            z = graph.outputs.detach()
            self.run.snapshot.rewind()  # or the other mode would begin with what this one left
            return {name for name, p in self.trainable.items() if graph.uses[id(p)]}

        found, self.mode = choose_mode(self.model, reached)  # asks last about the mode that it chooses
        if self.run.draws and self.mode == "training":
            raise ValueError(
                "the model reaches some trainable parameters in training mode alone, and draws random numbers in that "
                "mode; let its eval mode reach them, or pass forward= that does"
            )
        if self._factored and self.path == "auto":
            self._trust_layers(batch)
        number = 0 if self.cotangents.as_asked or not found else self.cotangents.number(z)
        if number > MANY_COTANGENTS:
            warnings.warn(
                f"this importance takes {number} backward passes for each sample, one for each output and position; "
                'of the Fisher variants, "sample" takes one per draw, "empirical" and "predicted" one',
                stacklevel=2,
            )

    def _trust_layers(self, batch: Batch) -> None:
        """See on two samples which layers have a row for each: a piece may hold only one, from which none can tell."""
        pair = batch.rows(0, 2) if batch.size > 1 else batch.times(2)
        try:
            graph = Graph(self.run(pair, record=True))
        except Exception:  # it runs on whole batches alone, which are checked as they come
            return
        if graph.outputs.requires_grad:
            self.recorder.record_summands(graph)
            self.layers.verified(self.layers.usable(graph, pair.size), graph, self.run.by_data, pair.task)
        self.recorder.calls.clear()

    def _few(self, batch: Batch) -> Tensor:
        """The outputs of at most two samples, or of the whole batch where the model runs on no less."""
        if self._divisible and batch.size > 2:
            try:
                return self.run(batch.rows(0, 2), record=True)
            except Exception as error:
                if is_out_of_memory(error):
                    return self.run(batch.rows(0, 1), record=True)
                # it may hold a state for each sample of a batch; if it is broken, the whole batch will say so
                z = self.run(batch, record=True)
                self._divisible = False
                return z
        return self.run(batch, record=True)

    def _plan(self, batch: Batch) -> int:
        if not self._divisible:
            return batch.size
        if self._size is None and batch.size > 1:  # a single sample tells nothing of the next
            try:
                self._size = samples_at_a_time(self.run, batch, self.cotangents, self.power, self.max_bytes)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._size = 1
            self.recorder.calls.clear()
        size = self._size or 1
        # until a layer is trusted a piece is small, since checking one takes several passes over it
        return min(size, CHECKED_SAMPLES) if self._checking and not self.layers.trusts else size

    # ------------------------------------------------------------------------ batches

    def batch_mean(self, batch: Batch) -> None:
        """|∇ of the batch mean|^p: the quantity that Avalanche, FACIL and others call importance."""
        if not self._prepared:
            self._prepare(batch)
        z = self.run(batch)
        _, count = self._counted(z.detach(), batch)
        if not count:
            return
        vectors = self.cotangents.vectors(z.detach(), batch.targets, self.generator)
        squares = squares_of(z, self.trainable, (v / count for v in vectors))
        self.reached |= bool(squares)
        self.totals.add(squares if self.power == 2 else {n: s.sqrt() for n, s in squares.items()}, "batch")
        self.totals.terms += 1

    def per_sample(self, batch: Batch) -> None:
        """The moments of every sample of the batch, in pieces that keep to the memory bound."""
        if not self._prepared:
            self._prepare(batch)
        start = 0
        while start < batch.size:
            size = self._plan(batch)
            stop = min(batch.size, start + size)
            state = self.generator.get_state()
            try:
                count, by_rule, general, path = self._piece(batch.rows(start, stop))
            except Exception as error:
                if not is_out_of_memory(error) or stop - start == 1 or not self._divisible:
                    raise
                self._size = (stop - start) // 2
                self.generator.set_state(state)
                continue
            # added when all is known, so that a piece that ran out of memory has left nothing here
            self.totals.add(by_rule.moments, "rule")
            self.totals.add(general, path)
            self.totals.add_factors(by_rule.factors)
            self.totals.terms += count
            start = stop

    def _piece(self, batch: Batch) -> tuple[int, Found, Moments, str]:
        """How many samples count, what the layers' rules find, and what the general path does, by which of its ways."""
        state = self.generator.get_state()
        z = self.run(batch, record=True)
        by_data, branches, values = self.run.by_data, self.run.branches, z.detach()
        counted, count = self._counted(values, batch)
        graph = Graph(z)
        for p in self.trainable.values():
            p.grad = None  # of a forward that goes backward itself
        reached = any(graph.uses[id(p)] for p in self.trainable.values())
        self.reached |= reached
        if not reached or not count:
            if self.cotangents.as_asked:  # drawn all the same, so that later samples meet the same numbers
                deque(self.cotangents.vectors(values, batch.targets, self.generator), maxlen=0)
            return count, Found({}, set()), {}, "unused"
        epsilon = graph.epsilon
        calls = {}
        if self.path == "auto":
            self.recorder.record_summands(graph)
            # which row is of which sample matters to factors where some samples do not count
            look = by_data or (self._factored and count < batch.size)
            calls = self.layers.verified(self.layers.usable(graph, batch.size), graph, look, batch.task)
            self._checking = bool(calls)
        vectors = self.cotangents.vectors(values, batch.targets, self.generator)
        by_rule = self.layers.moments(calls, z, vectors, counted if count < batch.size else None)
        rest = {n: p for n, p in self.trainable.items() if graph.uses[id(p)] and n not in by_rule.parameters}
        if any(p.grad is not None for p in self.trainable.values()):
            raise ValueError(
                "a backward pass within the model writes gradients by itself, as a recomputing autograd.Function does, "
                "so that there are none for each sample; torch.utils.checkpoint with use_reentrant=False does not"
            )
        del z, graph, calls
        self.recorder.calls.clear()
        general, path = {}, "unused"
        if rest:
            self.generator.set_state(state)
            general, path = self.general.moments(rest, batch, values, epsilon)
        # the general path looks at each sample by itself
        if not self.run.draws and not self._divisible:
            self._refuse_mixing_of_whole(batch, values, epsilon)
        elif not self.run.draws and by_rule.parameters:
            self._refuse_mixing(batch, values, by_data, branches, epsilon)
        return count, by_rule, general, path

    def _refuse_mixing(self, batch: Batch, z: Tensor, by_data: bool, branches: bool, epsilon: float) -> None:
        """Raise where samples by themselves give other outputs: the first and the last of a piece, or more of it.

        Where rows move by data samples may drive each other out, at any place of the piece, so that both halves are
        tried; where Python branches by data, it may do so by that of others, and each sample is.
        """
        n, half = batch.size, batch.size // 2
        parts = [(0, n, n - 1)] if n > 2 else [(0, 1, 1)]
        if by_data:
            parts += [(0, half, 1), (half, n, 1)]
        if branches:
            parts = [(i, i + 1, 1) for i in range(n)]
        for start, stop, step in parts if half else []:
            refuse_mixing(self.run(batch.rows(start, stop, step)).detach(), z[start:stop:step], epsilon)

    def _refuse_mixing_of_whole(self, batch: Batch, z: Tensor, epsilon: float) -> None:
        """Raise where the first or the last sample has another output if the whole batch consists of it."""
        for n in (0, batch.size - 1) if batch.size > 1 and batch.is_tensors else ():
            alike = batch.rows(n, n + 1).times(batch.size)
            if alike.size == batch.size:
                refuse_mixing(self.run(alike).detach()[n : n + 1], z[n : n + 1], epsilon)

    def _counted(self, z: Tensor, batch: Batch) -> tuple[Tensor | None, int]:
        """Which samples count, None if all do without a look at them, and how many."""
        counted = self.cotangents.counted(z, batch.targets)
        return counted, batch.size if counted is None else int(counted.sum())
