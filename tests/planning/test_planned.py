"""Which group of a model a plan means: by name and size, else by what makes its units."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.planning.planned import PlannedGroup, counts_of, fitted, makers_of
from tests.support.build import dense, model


def groups_of(proto):
    return groups(trace(load(proto)))


FOUND = groups_of(dense("b = Relu(a)"))  # w1: 8 neurons that can go; w2: 5 that are the output
(HIDDEN,) = (group for group in FOUND if group.name == "w1")
PLANNED = PlannedGroup("w1", "neurons", 8, 3, (0, 1, 2), makers_of(HIDDEN))


def test_a_group_is_meant_by_its_name():
    assert fitted([PLANNED], FOUND) == {"w1": PLANNED}
    assert counts_of(fitted([PLANNED], FOUND)) == {"w1": 3}


def test_a_group_of_another_name_is_meant_by_what_makes_its_units():
    assert "w1" in PLANNED.makers
    assert fitted([replace(PLANNED, name="elsewhere")], FOUND) == {"w1": replace(PLANNED, name="elsewhere")}
    quantized = replace(PLANNED, name="elsewhere", makers=("w1_quantized",))
    assert fitted([quantized], FOUND) == {"w1": quantized}


def refused(*planned, found=FOUND):
    with pytest.raises(OptionError) as caught:
        fitted(planned, found)
    return str(caught.value)


def test_another_size_is_an_error_with_both():
    assert refused(replace(PLANNED, units=12)) == (
        "plan: group 'w1' (12 neurons) has 8 neurons in this model, 12 are expected: make a plan for it"
    )


def test_a_group_that_is_not_there_is_an_error_with_the_nearest_name():
    message = refused(replace(PLANNED, name="w1x", makers=("v",)))
    assert message == (
        "plan: this model has no group 'w1x' (8 neurons), and none whose units 'v' make; the nearest name is 'w1', "
        "which has 8 neurons; 'onnxprune inspect' lists the groups"
    )
    assert "nearest" not in refused(replace(PLANNED, name="zzz", makers=()))


def test_a_locked_group_is_an_error_with_its_reason():
    message = refused(PlannedGroup("w2", "neurons", 5, 3))
    assert message.startswith("plan: group 'w2' (5 neurons) cannot lose units in this model: it is part of the graph")
    assert fitted([PlannedGroup("w2", "neurons", 5, 5)], FOUND).keys() == {"w2"}  # it keeps all of them


def test_two_that_are_one_here_are_an_error():
    assert re.search(
        r"group 'twin' \(8 neurons\) and 'w1' are one group in this model, 'w1': take one out",
        refused(PLANNED, replace(PLANNED, name="twin")),
    )


def test_makers_that_two_groups_share_say_nothing():
    """A fused matrix makes heads and the dims inside of them: the kind tells them apart."""
    proto = model(
        "a = MatMul(x, w)", "b = Reshape(a, shape)", "t = Transpose<perm = [0, 2, 1, 3]>(b)",
        "u = Transpose<perm = [0, 2, 3, 1]>(b)", "s = MatMul(t, u)", "p = Softmax<axis = -1>(s)", "m = MatMul(p, t)",
        "r = Transpose<perm = [0, 2, 1, 3]>(m)", "q = Reshape(r, flat)", "y = MatMul(q, v)",
        x="float[n,s,6] x", w=(6, 16), v=(16, 5), shape=[0, 0, 4, 4], flat=[0, 0, 16],
    )  # fmt: skip
    found = groups_of(proto)
    heads, dims = (next(group for group in found if group.kind == kind) for kind in ("heads", "head dims"))
    assert heads.units == dims.units == 4
    wanted = PlannedGroup("elsewhere", "head dims", 4, 2, (0, 1), makers_of(dims))
    assert fitted([wanted], found).keys() == {dims.name}
    other = refused(replace(wanted, kind="channels"), found=found)
    assert other.startswith("plan: this model has no group 'elsewhere'")
