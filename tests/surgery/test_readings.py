"""Places that read weights: what stays for each, and what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.surgery.readings import corrections, readings, scope_of
from tests.support.build import model

ROWS = "float[n,6] x"


def shared(metadata=None):
    """Two layers of one scale, which the second reads by an Identity."""
    proto = model(
        "other = Identity(scale)", "a = MatMul(x, w1)", "b = Mul(a, scale)", "c = MatMul(b, w2)", "d = Mul(c, other)",
        "y = MatMul(d, w3)",
        x=ROWS, y="float[n,5] y", scale=np.ones(8, np.float32), w1=np.ones((6, 8), np.float32),
        w2=np.ones((8, 8), np.float32), w3=np.ones((8, 5), np.float32),
    )  # fmt: skip
    for node, name in zip(
        proto.graph.node, ("", "/one/MatMul", "/one/Mul", "/two/MatMul", "/two/Mul", ""), strict=True
    ):
        node.name = name
        if metadata is not None:
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=metadata)
    return load(proto)


def places(weight, of, **how):
    """Return the places that read a weight, where three of the units stay that this weight and the scale share."""
    traced = trace(shared(**how))
    atom = next(group.atom for group in groups(traced) if {"scale", of} <= {each.constant for each in group.members})
    return [each for each in readings(traced, {atom: np.arange(8) < 3}) if each.weight == weight]


def test_places_that_keep_other_units_of_a_weight_are_told_apart():
    by_alias, plain = places("scale", "w1")
    assert (by_alias.kept, plain.kept) == ({}, {0: (0, 1, 2)})
    assert {"other", "two"} <= by_alias.called
    assert "one" not in by_alias.called
    assert {"b", "one"} <= plain.called
    by_alias, plain = places("scale", "w3")
    assert (by_alias.kept, plain.kept) == ({0: (0, 1, 2)}, {})


def test_scopes_that_stand_beside_a_node_are_names():
    assert {"layers.0", "norm"} <= places("w2", "w1", metadata="['', 'layers.0', 'norm', 3]")[0].called


@pytest.mark.parametrize("text", ["no list", "{'a': 1}", "[" * 5000, "__import__('os')"])
def test_what_is_no_list_of_scopes_is_passed_over(text):
    assert places("w2", "w1", metadata=text)[0].called == {"c", "two"}


def test_scopes_of_names():
    assert scope_of("/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"
    assert scope_of("/layers.0/norm/Mul_1") == "layers.0.norm"
    assert scope_of("/Mul") == scope_of("") == scope_of("node_7") == ""


@pytest.mark.parametrize(
    ("name", "metadata", "scope"),
    [("/one/ReduceMean", None, "one"), ("node_1", "['', 'layers.0', 'layers.0.norm', 'mean']", "layers.0.norm")],
)
def test_nodes_that_divide_by_the_units_before_the_cut_name_their_module(name, metadata, scope):
    proto = model(
        "a = MatMul(x, w1)", "m = ReduceMean<axes=[-1], keepdims=1>(a)", "b = Add(a, m)", "y = MatMul(b, w2)",
        x=ROWS, y="float[n,5] y", w1=np.ones((6, 8), np.float32), w2=np.ones((8, 5), np.float32), opset=17,
    )  # fmt: skip
    proto.graph.node[1].name = name
    if metadata is not None:
        proto.graph.node[1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=metadata)
    traced = trace(load(proto))
    atom = next(group.atom for group in groups(traced) if "w2" in {each.constant for each in group.members})
    (place,) = corrections(traced, {atom: np.arange(8) < 2})
    assert (place.node, place.op, place.ratio, place.kept) == (name, "ReduceMean", 4, {-1: (0, 1)})
    assert scope in place.called
