"""Biases: layers that add nothing get a bias of zeros, so that what a cut takes on average can be given back there.

Adding zero changes no number. The model that gets them keeps what its file holds as its original: every proof also
compares the two, as it does for any plain form (see `evaluation.verify`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from onnxprune.graph.edit import NO_EDITS, Edits, apply_edits, make_node
from onnxprune.graph.linear import Layer
from onnxprune.graph.model import Model
from onnxprune.graph.names import FreshNames
from onnxprune.graph.view import view

_OWN_SLOT = ("Conv", "Gemm")  # operators that take a bias themselves


def with_biases(model: Model, without: Collection[Layer]) -> Model:
    """Return a model in which some layers have a bias of zeros.

    Args:
        model: in plain form, and whole: not a part of one.
        without: layers of it that have none.
    """
    names, inputs, outputs = FreshNames(model), dict[tuple[int, int], str](), dict[tuple[int, int], str]()
    added, after = dict[str, Any](), dict[int, list[Any]]()
    for layer in without:
        weight, node = model.constants[layer.weight], layer.node
        groups, outs, _ = layer.shape(weight.shape)
        bias = names.fresh(f"{layer.weight}_bias")
        added[bias] = np.zeros(groups * outs, weight.dtype)
        if node.op in _OWN_SLOT and layer.share:
            inputs[node.index, 2] = bias
        else:
            product = outputs[node.index, 0] = names.fresh(f"{layer.output}_product")
            after[node.index] = [make_node("Add", [product, bias], layer.output, name=bias)]
    edits = dataclasses.replace(NO_EDITS, inputs=inputs, outputs=outputs, added=added, nodes_after=after)
    return _like(model, edits)


def _like(model: Model, edits: Edits) -> Model:
    """Return an edited model that knows of the file what the other one knows."""
    edited = view(apply_edits(model, edits), folder=model.folder, is_plain=True)
    return dataclasses.replace(
        edited,
        path=model.path,
        inputs=model.inputs,
        sizes=model.sizes,
        fits=model.fits,
        overridable=model.overridable,
        original=model.stored,
        digest=model.sha256(),
        stamps=model.stamps,
    )
