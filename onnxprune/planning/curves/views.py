"""Views: what linear layers see of their inputs, looked at once for all groups whose units they consume.

In a network of dense connections a layer consumes the units of each layer before it, and in a residual one dozens of
layers consume those of the stream. What they see, and its inverse, are the same for all of these groups. So a layer is
looked at where the first of its groups is measured, and kept until the last one is; which layers would need too much
memory is decided before anything is run, so that every worker comes to the same.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.algebra.blocked import gram
from onnxprune.algebra.quadratic import Gram, Quadratic, Rows
from onnxprune.calibration.batches import Calibration, held_rows
from onnxprune.criteria.elimination import STEPS
from onnxprune.criteria.surgeon import gram_work, rows_work
from onnxprune.graph.linear import Layer
from onnxprune.graph.model import Model
from onnxprune.recovery.moments import MOST_ROWS, Matrix, Moments, most_rows
from onnxprune.recovery.moments import WIDEST as WIDEST_GRAM
from onnxprune.runtime.replay import Replay

LEAST_ROWS, ROWS_PER_INPUT = 8_192, 8  # that moments are made of
FEW_ROWS = 1024  # that are kept where there are fewer than inputs; elimination looks at no more
HELD_BYTES = 512 * 2**20  # of what is seen of layers of several groups


@dataclass(frozen=True, slots=True)
class Detail:
    """How closely layers are looked at."""

    rows: int = MOST_ROWS  # of a layer at most, those held out among them
    steps: int = STEPS  # how often elimination looks at all units, see `criteria.elimination`
    widest: int = 1600  # inputs of a layer whose Gram matrix is inverted; of a wider convolution its channels are


FINEST = Detail()


class Unseen(Exception):
    """A layer could not be looked at, because a part of the model cannot be run alone."""


@dataclass(frozen=True, eq=False)
class View:
    """What one layer sees."""

    mean: Matrix  # [1, ins], of the inputs
    seen: Quadratic  # of the inputs; centred where the layer has a bias to take up means
    held: Quadratic | None  # the same of held-out rows; None where there are none
    counts: Matrix  # [outs], how much the squared error of each output counts
    rows: int  # of all batches, that were looked at
    judged: int  # of them those of batches that losses are measured on


def seen_by_some(views: Sequence[View]) -> Sequence[View]:
    """Return what layers see; raise Unseen where none of them sees a row, such as those of an expert never picked."""
    if views and not any(view.rows for view in views):
        raise Unseen
    return views


def taps(layer: Layer) -> int:
    """Return how many inputs of a row one channel has."""
    return 1 if layer.window is None else math.prod(layer.window.kernel)


def is_wide(layer: Layer, model: Model, widest: int) -> bool:
    """Whether channels are correlated, and not all inputs of a patch: of convolutions of more inputs than `widest`."""
    return taps(layer) > 1 and layer.shape(model.constants[layer.weight].shape)[-1] > widest


def ins_seen(layer: Layer, model: Model, widest: int) -> int:
    """Return how many inputs of a row are looked at."""
    ins = layer.shape(model.constants[layer.weight].shape)[-1]
    return ins // taps(layer) if is_wide(layer, model, widest) else ins


def seen_names(looked_at: Sequence[Layer]) -> list[str]:
    """Return the names of the inputs and outputs of layers."""
    return list(dict.fromkeys(name for layer in looked_at for name in (layer.input, layer.output)))


class Views:
    """The views of layers that are consumed by some cuts, one cut after the other."""

    def __init__(
        self,
        model: Model,
        replay: Replay,
        calibration: Calibration,
        consumers: Sequence[Sequence[Layer]],
        *,
        refitted: bool,
        seed: int,
        detail: Detail = FINEST,
        judged: Collection[int] = (),
    ) -> None:
        """Decide where each layer is looked at.

        Args:
            model: in plain form.
            replay: of it; it stands at the cut whose layers are looked at.
            calibration: the batches.
            consumers: the layers of each cut, in the order of the cuts.
            refitted: whether layers take up means with their biases.
            seed: of the sampled rows.
            detail: how closely layers are looked at.
            judged: numbers of the batches that losses are measured on.
        """
        self._detail, self._judged = detail, frozenset(judged)
        self._model, self._replay, self._refitted, self._seed = model, replay, refitted, seed
        self._held = set(calibration.held)
        self._kept: dict[int, View] = {}
        self._last = {layer.node.index: at for at, each in enumerate(consumers) for layer in each}
        self._looks = self._planned(consumers)

    def _planned(self, consumers: Sequence[Sequence[Layer]]) -> list[list[Layer]]:
        """Return the layers that are looked at for each cut: those that no cut before kept a view of."""
        looks: list[list[Layer]] = []
        kept: dict[int, int] = {}  # bytes
        for at, each in enumerate(consumers):
            new = {layer.node.index: layer for layer in each if layer.node.index not in kept}
            looks.append(list(new.values()))
            for index, layer in new.items():
                ins = ins_seen(layer, self._model, self._detail.widest)
                size = 24 * ins**2  # products, those held out, the inverse
                if self._last[index] > at and sum(kept.values()) + size <= HELD_BYTES:
                    kept[index] = size
            kept = {index: size for index, size in kept.items() if self._last[index] > at}
        return looks

    def names(self, cut: int) -> list[str]:
        """Return the values that are looked at for a cut."""
        return seen_names(self._looks[cut])

    def look(self, cut: int, wanted: Collection[int] | None = None) -> None:
        """Look at the layers of a cut that are not known yet, or at those alone whose nodes are wanted."""
        looks = [layer for layer in self._looks[cut] if wanted is None or layer.node.index in wanted]
        if looks:
            self._kept.update(self._seen(looks, self.names(cut)))

    def of(self, layer: Layer) -> View:
        """Return the view of a layer that has been looked at.

        Raises:
            Unseen: when it could not be.
        """
        view = self._kept.get(layer.node.index)
        if view is None:
            raise Unseen
        return view

    def pass_by(self, cut: int) -> None:
        """Forget what no later cut needs, or looks at again."""
        again = {layer.node.index for later in self._looks[cut + 1 :] for layer in later}
        self._kept = {at: view for at, view in self._kept.items() if self._last[at] > cut and at not in again}

    def _seen(self, looks: Sequence[Layer], names: Sequence[str]) -> Mapping[int, View]:
        moments = [_Sums.of(layer, ins_seen(layer, self._model, self._detail.widest), self._model) for layer in looks]
        rngs = [np.random.default_rng(self._seed) for _ in looks]
        judged = [0] * len(looks)
        for number, values in enumerate(self._replay.run(names)):
            for place, (layer, sums, rng) in enumerate(zip(looks, moments, rngs, strict=True)):
                shape = 1, sums.outputs.shape[1], sums.train.shape[2]
                most = most_rows(shape, ROWS_PER_INPUT, LEAST_ROWS, self._detail.rows)
                limit = most // len(self._replay) + 1
                at = layer.places(values[layer.output].shape, limit, rng)
                judged[place] += len(at) * (number in self._judged)
                rows = layer.channels if is_wide(layer, self._model, self._detail.widest) else layer.rows
                inputs, targets = rows(values[layer.input], at), layer.targets(values[layer.output], at)
                out = held_rows(len(at)) if len(self._replay) == 1 else np.full(len(at), number in self._held)
                sums.train.add(inputs[:, ~out], targets[:, ~out, :0])
                sums.held.add(inputs[:, out], targets[:, out, :0])
                sums.outputs.add(inputs[:, :, :0], targets)
        found = zip(looks, moments, judged, strict=True)
        return {layer.node.index: self._view(layer, sums, rows) for layer, sums, rows in found}

    def _view(self, layer: Layer, sums: _Sums, judged: int) -> View:
        can_be = self._refitted and (len(self._replay) > 1 or sums.held.rows > 0)
        mean = sums.train.mean_x if layer.bias is not None and can_be else np.zeros_like(sums.train.mean_x)
        held = sums.held.inputs(mean) if sums.held.rows else None
        seen = _handy(sums.train.inputs(mean), self._detail.steps)
        rows = sums.train.rows + sums.held.rows
        return View(sums.train.mean_x, seen, held, sums.outputs.weights()[0], rows, judged)


@dataclass(frozen=True)
class _Sums:
    """Moments of the inputs of a layer on rows to fit and on those held out, and of its outputs on all."""

    train: Moments
    held: Moments
    outputs: Moments

    @staticmethod
    def of(layer: Layer, ins: int, model: Model) -> _Sums:
        groups, outs, _ = layer.shape(model.constants[layer.weight].shape)
        return _Sums(Moments(groups, ins, 0), Moments(groups, ins, 0), Moments(groups, 0, outs))


def _handy(seen: Quadratic, steps: int) -> Quadratic:
    """Return what is seen in the form that takes less time: of rows, at most `FEW_ROWS`, spread evenly."""
    if not isinstance(seen, Rows):
        return seen
    count, ins = seen.rows.shape
    if ins <= WIDEST_GRAM and gram_work(count, ins, (ins,)) < rows_work(min(count, FEW_ROWS), ins, steps, 1):
        return Gram(gram(seen.rows) / max(1, count))
    return seen if count <= FEW_ROWS else Rows(seen.rows[np.linspace(0, count - 1, FEW_ROWS).astype(np.intp)])
