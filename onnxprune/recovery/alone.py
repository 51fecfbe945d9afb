"""Refit of one layer alone, to targets that the caller has; `recovery.refit` goes through all layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np

from onnxprune.calibration.batches import held_rows
from onnxprune.graph.linear import Layer
from onnxprune.graph.model import Model
from onnxprune.graph.tensors import Array
from onnxprune.recovery.moments import Moments, Shape, most_rows, precision
from onnxprune.recovery.reconstruct import Fit, fit

ROWS_PER_INPUT = 4  # rows that a fit sees for each input of the layer, at most
LEAST_ROWS = 4_096  # of each fit, where there are so many
STRENGTHS = (1e-1, 1e-2, 1e-3)  # of the ridge, to choose from


def wanted_rows(shape: Shape, rows: int) -> int:
    """Return how many rows a fit of a layer sees, those held out among them, if there are so many.

    Args:
        shape: groups of the layer, and outputs and inputs of each.
        rows: of a layer that is not narrow, at most.
    """
    return most_rows(shape, ROWS_PER_INPUT, LEAST_ROWS, rows)


def refitted(
    layer: Layer,
    model: Model,
    contents: Mapping[str, Array],
    seen: Iterable[tuple[Array, Array]],
    *,
    held: Collection[int],
    count: int,
    rows: int,
    seed: int = 0,
) -> dict[str, Array]:
    """Return new contents of the weight of a layer, and of its bias where no other node reads it; none for no gain.

    Args:
        layer: of the model.
        model: that holds its constants.
        contents: constants that hold other numbers.
        seen: for each batch, what the layer gets and what its output should be.
        held: numbers of the batches that are not fitted to; of a single batch, rows are held out.
        count: of batches.
        rows: that the fit sees at most, if the layer is not narrow.
        seed: of the rows that are drawn.
    """

    def content(name: str) -> Array:
        known = contents.get(name)
        return model.array(name) if known is None else known

    if layer.bias is not None and len(model.readers[layer.bias]) > 1:
        layer = without_bias(layer, content(layer.bias))
    stored = content(layer.weight)
    shape = layer.shape(stored.shape)
    groups, outs, ins = shape
    train, judge = Moments(groups, ins, outs), Moments(groups, ins, outs)
    limit = wanted_rows(shape, rows) // count + 1
    rng = np.random.default_rng(seed)
    for number, (inputs, target) in enumerate(seen):
        at = layer.places(target.shape, limit, rng)
        out = held_rows(len(at)) if count == 1 else np.full(len(at), number in held)
        for moments, places in ((train, at[~out]), (judge, at[out])):
            if len(places):
                moments.add(layer.rows(inputs, places), layer.targets(target, places))
    bias = None if layer.bias is None else layer.added(content(layer.bias))
    if not judge.rows:  # too few rows to hold any out
        return {}
    fitted = fit(train, judge, layer.matrix(stored, precision(shape)), bias, STRENGTHS)
    new = {} if fitted.strength is None else contents_of(layer, fitted, content)
    return new if are_finite(new) else {}


def without_bias(layer: Layer, bias: Array) -> Layer:
    """Return a layer without the bias that others share: it stays, and the weight alone is fitted."""
    return replace(layer, bias=None, offset=None, fixed=layer.added(bias).ravel())


def contents_of(layer: Layer, fitted: Fit, content: Callable[[str], Array]) -> dict[str, Array]:
    """Return what the constants of a layer hold with a fit of it; `content` gives what they hold before."""
    new = {layer.weight: layer.stored(fitted.weight, content(layer.weight))}
    if layer.bias is not None and fitted.bias is not None:
        new[layer.bias] = layer.stored_bias(fitted.bias, content(layer.bias))
    return new


def are_finite(contents: Mapping[str, Array]) -> bool:
    """Whether the types of constants can hold their numbers."""
    return all(np.isfinite(content).all() for content in contents.values())
