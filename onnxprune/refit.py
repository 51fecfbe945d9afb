"""Refit: layer after layer of a pruned model is given back what it computed before the cut.

In topological order each linear layer is fitted (`reconstruct.fit`) from what the *pruned* model now feeds it to what
the *original* gave at the same place, so that later layers correct what earlier ones could not. Where its output is
added to another branch that is final by then, the target is the sum: a block repairs the residual stream that it
writes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.axes import Atom, Mask, kept_mask
from onnxprune.linear import Layer, layers
from onnxprune.model import Array, Model
from onnxprune.reconstruct import Fit, Moments, fit
from onnxprune.replay import Feeds, Replay
from onnxprune.trace import Trace

HELD_EVERY = 4  # of so many batches one is held out
WIDEST = 5120  # inputs of a layer whose Gram matrix is kept; a wider one keeps the plain cut
ROWS_PER_INPUT = 16  # rows that a fit sees for each input of a layer, at most
LEAST_ROWS = 20_000  # of each fit, where there are so many
UNTOUCHED = 1e-9  # relative error below which a layer sees what it saw before the cut


@dataclass(frozen=True, slots=True)
class Refitted:
    """What became of one layer."""

    node: str
    fit: Fit


def refit(
    traced: Trace,
    masks: Mapping[Atom, Mask],
    pruned: Model,
    batches: Sequence[Feeds],
    *,
    seed: int = 0,
    sweeps: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Array], list[Refitted]]:
    """Return new contents of constants of the pruned model, by name, and what became of each layer."""
    contents: dict[str, Array] = {}
    told: list[Refitted] = []
    for _ in range(sweeps):
        run = _Refit(traced, masks, pruned, batches, contents, seed)
        told = run.layers(progress)
        contents = run.new.contents
    return contents, told


class _Refit:
    def __init__(
        self,
        traced: Trace,
        masks: Mapping[Atom, Mask],
        pruned: Model,
        batches: Sequence[Feeds],
        contents: Mapping[str, Array],
        seed: int,
    ) -> None:
        self.traced, self.masks, self.pruned, self.seed = traced, masks, pruned, seed
        self.old, self.new = Replay(traced.model, batches), Replay(pruned, batches)
        self.new.contents.update(contents)
        self.order = list(layers(pruned))
        self.sums = _Sums(pruned, self.order)

    def layers(self, progress: Callable[[str], None]) -> list[Refitted]:
        told = []
        for number, layer in enumerate(self.order):
            if layer.output not in self.traced.values or layer.input in self.pruned.constants:
                continue
            progress(f"refitting layer {number + 1} of {len(self.order)}")
            told.append(Refitted(layer.node.name, self._layer(layer)))
            for replay in (self.old, self.new):
                replay.advance(layer.output)
        return told

    def _layer(self, layer: Layer) -> Fit:
        weight = self._content(layer.weight)
        matrix = layer.matrix(weight)
        bias = None if layer.bias is None else layer.added(self._content(layer.bias))
        if matrix.shape[-1] > WIDEST:
            return Fit(matrix, bias, None, np.nan, np.nan)
        found = fit(*self._moments(layer, matrix), matrix, bias)
        if found.strength is not None:
            self.new.contents[layer.weight] = layer.stored(found.weight, weight)
            if layer.bias is not None and found.bias is not None:
                like = self._content(layer.bias)
                self.new.contents[layer.bias] = layer.stored_bias(found.bias, like)
        return found

    def _content(self, name: str) -> Array:
        content = self.new.contents.get(name)
        return self.pruned.array(name) if content is None else content

    def _moments(self, layer: Layer, matrix: Array) -> tuple[Moments, Moments]:
        groups, outs, ins = matrix.shape
        train, held = Moments(groups, ins, outs), Moments(groups, ins, outs)
        total, beside = self.sums.target(layer)
        limit = max(LEAST_ROWS, ROWS_PER_INPUT * ins) // len(self.new) + 1
        rng = np.random.default_rng(self.seed)
        old, new = self.old.run([total]), self.new.run([layer.input, *beside])
        for number, (before, now) in enumerate(zip(old, new, strict=True)):
            target = self._kept(total, before[total]).astype(np.float32)
            for name in beside:
                target = target - now[name].astype(np.float32)
            at = layer.places(target.shape, limit, rng)
            moments = held if number % HELD_EVERY == HELD_EVERY - 1 or (len(self.new) < HELD_EVERY and number == len(self.new) - 1) else train
            moments.add(layer.rows(now[layer.input], at), layer.targets(target, at))
        return train, held

    def _kept(self, name: str, array: Array) -> Array:
        """Return a value of the original without the units that are gone."""
        for dim, axis in enumerate(self.traced.axes(self.traced.values[name])):
            mask = kept_mask(axis, self.masks)
            if mask.size == array.shape[dim] and not mask.all():
                array = array.compress(mask, axis=dim)
        return array


class _Sums:
    """Finds the sum that the output of a layer goes into, where the other addend is final before the layer is."""

    def __init__(self, model: Model, order: Iterable[Layer]) -> None:
        self._readers: dict[str, list[int]] = {}
        self._model = model
        pending = {layer.node.index for layer in order}
        self._last: dict[str, int] = {}  # the last layer that a value is computed from
        for index in model.top:
            node = model.nodes[index]
            read = [name for name in (*node.inputs, *node.captured) if name]
            for name in read:
                self._readers.setdefault(name, []).append(index)
            last = max([self._last.get(name, -1) for name in read], default=-1)
            for name in node.outputs:
                self._last[name] = max(last, index if index in pending else -1)
        self._kept = {port.name for port in model.outputs}

    def target(self, layer: Layer) -> tuple[str, tuple[str, ...]]:
        """Return the value that a layer shall bring about, and what else is added to it."""
        readers = self._readers.get(layer.output, [])
        if len(readers) != 1 or layer.output in self._kept:
            return layer.output, ()
        node = self._model.nodes[readers[0]]
        if node.op != "Add":
            return layer.output, ()
        other = next((name for name in node.inputs if name != layer.output), None)
        final = other is not None and other in self._last and self._last[other] < layer.node.index
        return (node.outputs[0], (other,)) if final and other is not None else (layer.output, ())
