"""Loss curves: how much the output suffers when one group loses units and its consumers are refitted.

The original is replayed group by group, in the order in which they are consumed. At each, the moments of what the
consumers see give the order in which the units go (`elimination`) and the refitted weights at a few levels; each
level is then run to the output on batches that were not fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.elimination import Consumer, Elimination, eliminate
from onnxprune.groups import Group, Member
from onnxprune.linear import Layer, layers
from onnxprune.model import Array
from onnxprune.reconstruct import Moments
from onnxprune.replay import Feeds, Replay
from onnxprune.trace import Trace

LEAST_ROWS, ROWS_PER_INPUT = 20_000, 8
WIDEST = 1600  # inputs of a convolution whose whole patches are correlated; of a wider one its channels are
HELD_EVERY = 4

Loss = Callable[[Mapping[str, Array], Mapping[str, Array]], float]


@dataclass(frozen=True)
class Curve:
    """What a group costs when it loses units."""

    group: str
    order: tuple[int, ...]  # units, the first to go first; all of those that may go
    removed: tuple[int, ...]  # units, ascending, from 0
    losses: tuple[float, ...]  # of the output at these counts
    errors: tuple[float, ...]  # of the consumers at these counts, relative to their variance


def curves(
    traced: Trace,
    wanted: Sequence[tuple[Group, Sequence[int]]],
    batches: Sequence[Feeds],
    loss: Loss,
    *,
    judged: int = 4,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Curve]:
    """Return the curve of each group, by name.

    Args:
        traced: the model with its axes.
        wanted: groups, and how many of their units may be removed, ascending.
        batches: calibration feeds; every `HELD_EVERY`-th is held out.
        loss: of the original's outputs and others.
        judged: batches on which losses are measured, of those held out.
        seed: of the rows that are looked at.
        progress: is told what is done.
    """
    sampler = _Curves(traced, batches, loss, judged, seed)
    order = sorted(wanted, key=lambda item: sampler.first(item[0]))
    found = {}
    for number, (group, levels) in enumerate(order):
        progress(f"loss curve {number + 1} of {len(order)}: {group.name}")
        found[group.name] = sampler.curve(group, levels)
    return found


class _Curves:
    def __init__(self, traced: Trace, batches: Sequence[Feeds], loss: Loss, judged: int, seed: int) -> None:
        self._traced, self._loss, self._seed = traced, loss, seed
        self._replay = Replay(traced.model, batches)
        self._layers = {layer.node.index: layer for layer in layers(traced.model)}
        self._held = [n for n in range(len(batches)) if n % HELD_EVERY == HELD_EVERY - 1] or [len(batches) - 1]
        self._judged = self._held[:judged]
        self._outputs = [port.name for port in traced.model.outputs]
        self._expected = list(self._replay.run(self._outputs, self._judged))
        self._place = {index: place for place, index in enumerate(traced.model.top)}

    def first(self, group: Group) -> int:
        return min((self._place.get(member.sink[0], 1 << 30) for member in self._consumed(group)), default=1 << 30)

    def _consumed(self, group: Group) -> list[Member]:
        return [member for member in group.members if member.role == "in"]

    def curve(self, group: Group, levels: Sequence[int]) -> Curve:
        consumed = self._consumed(group)
        pairs = []
        for member in consumed:
            layer = self._layers.get(member.sink[0])
            if layer is not None and layer.groups == 1 and layer.weight == member.constant:
                pairs.append((member, layer))
        first = min((layer.node for _, layer in pairs), key=lambda node: self._place[node.index])
        maker = [name for name in first.inputs if name in self._replay._order]  # noqa: SLF001
        if maker:
            self._replay.advance(maker[0])
        moments = self._moments([layer for _, layer in pairs])
        consumers = [self._consumer(m, l, *mm) for (m, l), mm in zip(pairs, moments, strict=True)]
        found = eliminate(consumers, levels)
        losses = [self._measured(pairs, consumers, moments, weights) for weights in found.weights]
        return Curve(group.name, tuple(found.order.tolist()), (0, *levels), (0.0, *losses), (0.0, *found.errors))

    def _moments(self, found: Sequence[Layer]) -> list[tuple[Moments, Moments, bool]]:
        result = []
        for layer in found:
            g, o, i = layer.matrix(self._traced.model.array(layer.weight)).shape
            result.append((Moments(g, i, o), Moments(g, i, o)))
        rng = np.random.default_rng(self._seed)
        names = {name for layer in found for name in (layer.input, layer.output)}
        for number, values in enumerate(self._replay.run(names)):
            for layer, pair in zip(found, result, strict=True):
                limit = max(LEAST_ROWS, ROWS_PER_INPUT * pair[0].x.shape[1]) // len(self._replay) + 1
                at = layer.places(values[layer.output].shape, limit, rng)
                pair[number in self._held].add(layer.rows(values[layer.input], at), layer.targets(values[layer.output], at))
        return result

    def _consumer(self, member: Member, layer: Layer, train: Moments, held: Moments) -> Consumer:
        weight = layer.matrix(self._traced.model.array(layer.weight))[0]
        grams = []
        for moments in (train, held):
            mean = train.x / max(1, train.rows) if layer.bias is not None else np.zeros_like(train.x)
            grams.append(moments.centred(mean, np.zeros_like(moments.y))[0][0])
        taps = 1 if layer.window is None else int(np.prod(layer.window.kernel))
        inputs = (member.places[:, :, None] * taps + np.arange(taps)).reshape(len(member.places), -1)
        total = train + held
        variance = float((total.yy / total.rows - (total.y / total.rows) ** 2).sum())
        return Consumer(weight, grams[0], grams[1], variance, inputs)

    def _measured(self, pairs, consumers, moments, weights) -> float:
        contents = {}
        for (_, layer), consumer, (train, held), weight in zip(pairs, consumers, moments, weights, strict=True):
            old = self._traced.model.array(layer.weight)
            contents[layer.weight] = layer.stored(weight[None], old)
            if layer.bias is not None:
                like = self._traced.model.array(layer.bias)
                added = layer.added(like) + (consumer.weight - weight) @ (train.x[0] / train.rows)
                contents[layer.bias] = layer.stored_bias(added, like)
        found = self._replay.run(self._outputs, self._judged, contents)
        return float(np.mean([self._loss(a, b) for a, b in zip(self._expected, found, strict=True)]))
