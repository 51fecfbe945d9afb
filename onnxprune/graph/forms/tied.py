"""Tied weights: what a file holds twice, as it is or transposed, is stored once.

Exporters write the token table of a language model a second time, transposed, as the weight of its output layer, though
both are one parameter (Press and Wolf 2017, "Using the Output Embedding to Improve Language Models"). The numbers of
such *twins* are equal to the bit, so that the model computes the same when the second is read as the first, through a
Transpose where it has to be: a runtime computes it once, when it loads the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.edit import NO_EDITS, apply_edits, make_node
from onnxprune.graph.model import Constant, Model
from onnxprune.graph.names import FreshNames
from onnxprune.graph.tensors import Array
from onnxprune.graph.view import view

LEAST_BYTES = 2**16  # of a weight whose twin is looked for
DIAGONAL = 64  # elements that are looked at before two weights are compared


@dataclass(frozen=True, slots=True)
class Twin:
    """A weight that holds what another one holds."""

    name: str
    of: str  # the weight that stays
    is_transposed: bool
    size_bytes: int  # that are stored twice


def twins(model: Model) -> list[Twin]:
    """Return the weights of the main graph whose numbers another one in front of them has, as they are or transposed.

    The order is that in which nodes read them. What shares its bytes with another weight already is no twin.

    Raises:
        ModelError: when the external data of a weight cannot be read.
    """
    return list(_twins(model, _able(model)))


def stored_once(model: Model, pairs: Sequence[Twin]) -> Model:
    """Return a model in which each of some twins is the weight that it is equal to.

    What the file holds (`Model.stored`) stays what was read: sizes before and after are those of files.
    """
    names = FreshNames(model)
    made = {twin.of: names.fresh(f"{twin.of}_transposed") for twin in pairs if twin.is_transposed}
    read_as = {twin.name: made[twin.of] if twin.is_transposed else twin.of for twin in pairs}
    nodes = [make_node("Transpose", [weight], name, perm=[1, 0]) for weight, name in made.items()]
    inputs = {place: read_as[name] for name in read_as for place in model.readers[name] if place[1] >= 0}
    edits = dataclasses.replace(NO_EDITS, inputs=inputs, nodes_before={model.top[0]: nodes} if nodes else {})
    once = view(apply_edits(model, edits), model.path, model.folder, is_plain=True)
    return dataclasses.replace(
        once, original=model.stored, digest=model.digest, stamps=model.stamps, overridable=model.overridable
    )


def _able(model: Model) -> Iterator[Constant]:
    """Yield the weights that may be twins, in the order in which nodes read them."""
    own = {tensor.name for tensor in model.proto.graph.initializer} - model.overridable
    own -= {port.name for port in (*model.inputs, *model.outputs)}
    own -= {name for node in model.nodes for body in node.bodies for name in body.outputs}
    first = dict.fromkeys(name for node in model.nodes for name in node.inputs if name in own)
    for name in first:
        constant = model.constants[name]
        if constant.is_weight and constant.count * constant.dtype.itemsize >= LEAST_BYTES:
            yield constant


def _twins(model: Model, weights: Iterator[Constant]) -> Iterator[Twin]:
    for alike in _of_one_shape(weights):
        others: dict[bytes, list[Constant]] = {}
        for constant in alike if len(alike) > 1 else ():
            array = model.array(constant.name)
            known = others.setdefault(_diagonal(array), [])
            if any(constant.identity == other.identity for other in known):
                continue
            twin = next(filter(None, (_twin_of(model, constant, array, other) for other in known)), None)
            if twin is None:
                known.append(constant)
            else:
                yield twin


def _of_one_shape(weights: Iterator[Constant]) -> Sequence[Sequence[Constant]]:
    """Return lists of weights of one type and one shape, or, of matrices, the shape of one another transposed."""
    alike: dict[tuple[object, ...], list[Constant]] = {}
    for constant in weights:
        shape = tuple(sorted(constant.shape)) if len(constant.shape) == 2 else constant.shape
        alike.setdefault((constant.tensor.data_type, *shape), []).append(constant)
    return list(alike.values())


def _diagonal(array: Array) -> bytes:
    """Return some elements that transposing does not move: weights that differ are told apart without reading them."""
    places = np.arange(min(*array.shape, DIAGONAL))
    return array[(places,) * array.ndim].tobytes()


def _twin_of(model: Model, constant: Constant, array: Array, other: Constant) -> Twin | None:
    first = model.array(other.name)
    for is_transposed, moved in ((False, first), (True, first.T)):
        if moved.shape == array.shape and (not is_transposed or array.ndim == 2) and _same_bits(moved, array):
            return Twin(constant.name, other.name, is_transposed, array.nbytes)
    return None


def _same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays of one type and shape hold the same numbers, to the bit."""
    first, second = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    return bool(np.array_equal(first, second))
