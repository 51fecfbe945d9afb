"""What becomes of a graph when its stream is turned, and why some streams cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.commands.steps.prepare import part_to_run
from onnxprune.dependency.blocks import entries
from onnxprune.dependency.branches import branches
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.dependency.turning import frames_of
from onnxprune.errors import CannotTurn
from onnxprune.graph.effective import ConstantValues
from onnxprune.graph.files.read import load
from onnxprune.planning.slicing import streams_of
from tests.support.build import TOKENS, model
from tests.support.streams import WIDTH, network


def frames(proto, *, each=False):
    part = part_to_run(load(proto), {})
    traced = trace(part)
    stream, *_ = streams_of(traced, groups(traced))
    parted = entries(traced, branches(traced)) if each else {}
    return frames_of(traced, stream.atom, parted, ConstantValues(part)), traced


def reason(proto):
    with pytest.raises(CannotTurn) as error:
        frames(proto)
    return str(error.value)


def test_scales_and_offsets_go_to_those_who_read():
    found, traced = frames(network("layer apart", 1))
    reads = [turn for turn in found.turns if turn.reads]
    assert [traced.model.nodes[turn.node].inputs[turn.slot] for turn in reads] == ["a0", "h"]
    np.testing.assert_allclose(reads[0].gain, traced.model.array("n0g"), rtol=1e-6)
    np.testing.assert_allclose(found.shifts[1].offset, traced.model.array("n1b"), rtol=1e-6)
    assert found.centred
    assert {"q0c": "s0", "n0": "q0d", "n1": "q1d"}.items() <= found.instead.items()
    assert [signal.value for signal in found.signals[0]] == ["n0", "n1"]


def test_one_frame_or_one_for_each_place():
    assert list(frames(network("rms"))[0].signals) == [0]
    found, traced = frames(network("rms"), each=True)
    assert len(found.signals) == len(found.values) == 3
    assert [(traced.model.nodes[step.node].outputs[0], step.slot) for step in found.steps] == [("s1", 0), ("s2", 0)]
    assert len({turn.frame for turn in found.turns}) == 3


def test_branches_side_by_side_enter_the_stream_together():
    """As in GPT-NeoX: an attention and a feed-forward network are added up first."""
    nodes, weights, now = ["s0 = MatMul(x, w)"], {"w": (16, WIDTH), "h": (WIDTH, 5), "g": (WIDTH,)}, "s0"
    for n in range(2):
        nodes += [f"n{n} = RMSNormalization({now}, g)", f"a{n} = MatMul(n{n}, wa{n})", f"e{n} = MatMul(n{n}, we{n})"]
        nodes += [
            f"r{n} = Relu(e{n})",
            f"f{n} = MatMul(r{n}, wf{n})",
            f"v{n} = Relu(a{n})",
            f"o{n} = MatMul(v{n}, wo{n})",
        ]
        nodes += [f"both{n} = Add(o{n}, f{n})", f"s{n + 1} = Add(both{n}, {now})"]
        weights |= {f"wa{n}": (WIDTH, 8), f"wo{n}": (8, WIDTH), f"we{n}": (WIDTH, 32), f"wf{n}": (32, WIDTH)}
        now = f"s{n + 1}"
    proto = model(*nodes, f"z = RMSNormalization({now}, g)", "y = MatMul(z, h)", x=TOKENS, opset=23, **weights)
    found, traced = frames(proto, each=True)
    assert len(found.signals) == 3
    assert [(traced.model.nodes[step.node].outputs[0], step.slot) for step in found.steps] == [("s1", 1), ("s2", 1)]


LAST = {
    "z = Relu({s})": "Relu 'z' does not treat all units alike, as far as is known: it would give something else",
    "z = Mul({s}, other)": "Mul 'z' multiplies units with one another, or bends each of them",
    "z = Add({s}, one)": "Add 'z' adds one number to all units",
    "z = Pow({s}, three)": "Pow 'z' multiplies units with one another, or bends each of them",
    "z = Mul({s}, places)": "Mul 'z' scales or shifts units differently by place: 'places'",
    "z = Where(chosen, {s}, other)": "Where 'z' chooses by unit",
    "z = Where(at, {s}, one)": "Where 'z' puts one number in the place of all units",
}


@pytest.mark.parametrize("node", LAST)
def test_what_treats_units_one_by_one_is_refused(node):
    values = {
        "one": np.float32(1), "three": np.float32(3),
        "places": np.outer(np.arange(8), np.arange(WIDTH)).astype(np.float32),
        "at": np.array([[True], [False]]), "chosen": np.arange(WIDTH) % 2 == 0, "v": (16, WIDTH),
    }  # fmt: skip
    nodes = [node] if "other" not in node else ["other = MatMul(x, v)", node]
    proto = network("rms apart", 1, last=nodes, **values)
    assert LAST[node] in reason(proto)


def test_normalisations_behind_sums_are_refused():
    text = reason(network("layer", post=True))
    assert text.startswith("Add 'p1' takes 's1' with a scale or an offset for each unit, which a normalisation in ")
    assert text.endswith("networks can be turned that normalise in front of layers, not behind sums")


def test_a_reader_of_the_mean_is_refused_where_it_is_taken_away():
    proto = network("layer", 1, last=("r = MatMul({s}, e)", "z = Add({s}, r)"), e=(WIDTH, WIDTH))
    assert reason(proto) == "MatMul 'r' reads it with its mean, which a LayerNormalization takes from it"
    found, _ = frames(network("rms", 1, last=("r = MatMul({s}, e)", "z = Add({s}, r)"), e=(WIDTH, WIDTH)))
    assert [(turn.dim, turn.reads) for turn in found.turns[-3:-1]] == [(0, True), (1, False)]


def test_a_stream_that_is_an_output_is_refused():
    proto = network("rms", 1)
    proto.graph.output.append(next(info for info in proto.graph.value_info if info.name == "s1"))
    assert reason(proto) == "its units cannot go: it is part of the graph output 's1'"


def test_quantized_weights_are_refused():
    proto = network(
        "rms apart", 1, last=("e = DequantizeLinear(q, t)", "r = MatMul({s}, e)", "z = Add({s}, r)"),
        q=np.ones((WIDTH, WIDTH), np.int8), t=np.float32(0.1),
    )  # fmt: skip
    assert "reads weights that are quantized: prune the float model, then quantize it" in reason(proto)
