"""Linear maps beside branches: all zero at first, so that the model computes what it did; then they are fitted.

A map is added to what its branch adds. When the branch goes, the map is what is left beside the stream, and is refitted
to what both did, as any layer beside a gap is. That a model with maps of zeros equals the original is proven before
anything is cut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.dependency.bypass import Bypass
from onnxprune.graph.edit import NO_EDITS, make_node
from onnxprune.graph.model import Model
from onnxprune.graph.names import FreshNames
from onnxprune.graph.tensors import Array
from onnxprune.surgery.rewrite import Rewritten, edited


@dataclass(frozen=True)
class Bypassed:
    """A model with linear maps beside some branches."""

    rewritten: Rewritten
    sums: Mapping[str, str]  # in which a branch (slot 0) and its map (slot 1) are added, by branch
    weights: Mapping[str, str]  # the matrix of each map, by branch


def bypassed(model: Model, bypasses: Sequence[Bypass], dtype: Callable[[str], np.dtype[Any]]) -> Bypassed:
    """Return a model with a linear map of zeros beside each of some branches.

    Args:
        model: in plain form.
        bypasses: of it.
        dtype: of a value, by its name.
    """
    names, inputs = FreshNames(model), dict[tuple[int, int], str]()
    sums, weights = dict[str, str](), dict[str, str]()
    added: dict[str, Array] = {}
    before: dict[int, list[Any]] = {}
    for each in bypasses:
        branch = each.branch
        weight, bias, out, both = (
            names.fresh(f"{branch.name}_linear{part}") for part in ("_weight", "_bias", "", "_added")
        )
        is_convolution = each.dim != each.rank - 1
        taps = (1,) * (each.rank - 2) if is_convolution else ()
        added[weight] = np.zeros((each.units, each.units, *taps), dtype(branch.value))
        added[bias] = np.zeros(each.units, dtype(branch.value))
        nodes = before.setdefault(branch.node, [])
        if is_convolution:
            nodes.append(make_node("Conv", [each.source, weight, bias], out, kernel_shape=list(taps)))
        else:
            product = names.fresh(f"{out}_product")
            nodes.append(make_node("MatMul", [each.source, weight], product))
            nodes.append(make_node("Add", [product, bias], out))
        nodes.append(make_node("Add", [branch.value, out], both))
        inputs[branch.node, branch.slot] = sums[branch.name] = both
        weights[branch.name] = weight
    edits = dataclasses.replace(NO_EDITS, inputs=inputs, added=added, nodes_before=before)
    return Bypassed(edited(model, edits), sums, weights)
