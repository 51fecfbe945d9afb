"""Every operator is known: it has a rule, or a reason why it has none."""

from __future__ import annotations

import onnx
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from onnxprune.commands.inspect import inspect
from onnxprune.commands.prune import prune
from onnxprune.dependency.groups import groups
from onnxprune.dependency.rules import LOCKED, RULES
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune
from onnxprune.graph.shapes.operators import SHAPES
from onnxprune.graph.view import view
from onnxprune.report.inspect import inspect_tables
from tests.support.build import model


def named(schemas):
    return {f"{schema.domain}.{schema.name}".removeprefix(".") for schema in schemas}


def test_every_operator_of_onnx_has_a_rule_or_a_reason():
    assert not named(onnx.defs.get_all_schemas_with_history()) - RULES.keys() - LOCKED.keys()


@pytest.mark.skipif(not hasattr(runtime, "get_all_operator_schema"), reason="this build of the runtime does not tell")
def test_every_operator_of_the_runtime_has_a_rule_or_a_reason():
    assert not named(runtime.get_all_operator_schema()) - RULES.keys() - LOCKED.keys()


@pytest.mark.parametrize(("op", "reason"), LOCKED.items())
def test_a_reason_is_the_rest_of_a_sentence(op, reason):
    assert reason[0].islower()
    assert not reason.endswith(".")
    assert not reason.startswith(op)


def test_shapes_are_known_for_every_operator_of_the_runtime_that_has_a_rule():
    foreign = {op for op in RULES if op.startswith("com.microsoft.")}
    assert not foreign - SHAPES.keys()


def blocked():
    """A convolution between two of blocked channels, as the layout level of ONNX Runtime's optimiser writes it."""
    return model(
        "p = com.microsoft.nchwc.ReorderInput(x)", "a = com.microsoft.nchwc.Conv(p, w1)",
        "m = com.microsoft.nchwc.MaxPool<kernel_shape=[2, 2]>(a)",
        "u = com.microsoft.nchwc.Upsample<scales=[1, 1, 2, 2]>(m)",
        "g = com.microsoft.nchwc.GlobalAveragePool(u)", "b = com.microsoft.nchwc.ReorderOutput<channels=14>(g)",
        "y = Conv(b, w2)", x="float[n,16,6,6] x", y="float[n,5,1,1] y", imports='"com.microsoft.nchwc" : 1',
        w1=(16, 16, 1, 1), w2=(5, 14, 1, 1)
    )  # fmt: skip


def test_blocked_channels_are_locked_and_say_what_to_do():
    found = trace(view(blocked()))
    assert [found.probe.shape(name)[1:] for name in "paumgb"] == [
        (16, 6, 6), (16, 6, 6), (16, 10, 10), (16, 5, 5), (16, 1, 1), (14, 1, 1)
    ]  # fmt: skip
    reasons = {group.name: group.locked for group in groups(found)}
    assert "prune before ONNX Runtime's layout optimisation" in reasons["w2:in"]


def test_a_graph_of_blocked_channels_alone_says_so():
    proto = model(
        "p = com.microsoft.nchwc.ReorderInput(x)", "y = com.microsoft.nchwc.Conv(p, w1)", x="float[n,16,6,6] x",
        y="float[n,16,6,6] y", imports='"com.microsoft.nchwc" : 1', w1=(16, 16, 1, 1)
    )  # fmt: skip
    found = inspect(proto)
    assert not found.groups
    (reason,) = found.unreached
    assert "prune before ONNX Runtime's layout optimisation" in reason
    assert reason.partition(" (at ")[0] in inspect_tables(found)[-1]
    with pytest.raises(NothingToPrune, match=r"meet in an axis; com\.microsoft\.nchwc\.Conv keeps channels"):
        prune(proto)
