"""A smaller vocabulary: the model without rows of its tables and entries of its scores, and the original seen through.

Whoever calls the smaller model gives other ids, and gets scores of fewer tokens: this is the one cut that changes what
an input means. What it must compute is the original behind a map: old ids in the place of new ones in front, and the
kept scores behind. That is a model as well (`seen_through`), with the ports of the smaller one, so that both are
compared like any two models.

New ids are in the order of old ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.dependency.vocabulary import Vocabulary
from onnxprune.graph.edit import NO_EDITS, Content, apply_edits, make_node
from onnxprune.graph.model import Model
from onnxprune.graph.names import FreshNames
from onnxprune.surgery.rewrite import Rewriter, Rewritten, edited

Ids = npt.NDArray[np.int64]
_NONE = -1  # that no id is equal to


def new_ids(size: int, kept: Ids) -> Ids:
    """Return the new id of every old one ``[size]``, -1 where it is gone.

    >>> new_ids(5, np.array([1, 4])).tolist()
    [-1, 0, -1, -1, 1]
    """
    ids = np.full(size, _NONE, np.int64)
    ids[kept] = np.arange(len(kept))
    return ids


def narrowed(words: Vocabulary, kept: Ids) -> Rewritten:
    """Return the model with some tokens alone.

    Args:
        words: its vocabulary.
        kept: old ids ``[kept]``, ascending.
    """
    mask = np.isin(np.arange(words.size), kept)
    rewriter = Rewriter(words.traced, dict.fromkeys(words.atoms, mask))
    edits, model = rewriter.edits(), words.traced.model
    inputs, added = dict(edits.inputs), dict(edits.added)
    ids = new_ids(words.size, kept)
    for index, slot in words.compared:
        name = model.nodes[index].inputs[slot]
        old = model.array(name)
        known = (old >= 0) & (old < words.size)
        new = rewriter.names.fresh(f"{name}_renumbered")
        added[new] = np.where(known, ids[np.where(known, old, 0).astype(np.int64)], _NONE).astype(old.dtype)
        inputs[index, slot] = new
    edits = dataclasses.replace(edits, inputs=inputs, added=added)
    touched = {index for index, _ in (*inputs, *edits.attributes)}
    return edited(model, edits, rewriter.cuts, tuple(sorted(touched)))


def seen_through(words: Vocabulary, kept: Ids) -> Any:
    """Return the original behind the map, an onnx.ModelProto: it takes new ids, and gives the scores of kept tokens."""
    model, names = words.traced.model, FreshNames(words.traced.model)
    dtypes = {port.name: port.dtype for port in model.inputs}
    inputs, outputs, added = dict[tuple[int, int], str](), dict[tuple[int, int], str](), dict[str, Content]()
    before, after = dict[int, list[Any]](), dict[int, list[Any]]()
    for name in words.inputs:
        table = names.fresh(f"{name}_old")
        added[table] = kept.astype(dtypes[name])
        for index, slot in model.readers[name]:
            if slot >= 0:
                old = names.fresh(f"{name}_as_old")
                before.setdefault(index, []).append(make_node("Gather", [table, name], old))
                inputs[index, slot] = old
    makers = {name: (node.index, at) for node in model.nodes for at, name in enumerate(node.outputs)}
    for name in words.outputs:
        whole, places = names.fresh(f"{name}_of_all"), names.fresh(f"{name}_kept")
        added[places] = kept
        outputs[makers[name]] = whole
        after[makers[name][0]] = [make_node("Gather", [whole, places], name, axis=len(words.traced.values[name]) - 1)]
        inputs.update({place: whole for place in model.readers.get(name, ()) if place[1] >= 0})
    shapes = {name: (*[0] * (len(words.traced.values[name]) - 1), len(kept)) for name in words.outputs}
    edits = dataclasses.replace(
        NO_EDITS, inputs=inputs, outputs=outputs, added=added, nodes_before=before, nodes_after=after, shapes=shapes
    )
    return apply_edits(model, edits)


def size_of(model: Model, name: str) -> int | str | None:
    """Return how many entries the last axis of an output has."""
    port = next(port for port in model.outputs if port.name == name)
    return port.shape[-1] if port.shape else None
