"""Which branches go: those without which the output loses least, once their neighbours are refitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.branches import branches, nodes_of
from onnxprune.dependency.cost import NodeMacs
from onnxprune.dependency.trace import trace
from onnxprune.graph.files.read import load
from onnxprune.planning.branches import depth
from onnxprune.planning.branches.depth import Chain, choose, fewer
from tests.support.build import model

RNG = np.random.default_rng(0)
WIDTH = 12
SIZES = {
    "dead": 0.0,  # adds nothing
    "loud": 1.0,  # each number counts
    "linear": 1.0,  # a linear map of its stream: the layer in front can do it as well
}


def network(*kinds):
    """Return a network of residual blocks, each behind a layer."""
    nodes, weights = ["s0 = MatMul(x, first)"], {"first": matrix()}
    for number, kind in enumerate(kinds):
        now, scale = f"s{number}", SIZES[kind]
        if kind == "linear":
            nodes.append(f"o{number} = MatMul({now}, down{number})")
            weights[f"down{number}"] = scale * matrix()
        else:
            nodes += [f"h{number} = MatMul({now}, up{number})", f"r{number} = Relu(h{number})"]
            nodes.append(f"o{number} = MatMul(r{number}, down{number})")
            weights |= {f"up{number}": matrix(), f"down{number}": scale * matrix()}
        nodes.append(f"s{number + 1} = Add({now}, o{number})")
    nodes.append(f"y = MatMul(s{len(kinds)}, last)")
    return load(model(*nodes, x=f"float[n,{WIDTH}] x", last=matrix(), **weights))


def matrix():
    return (RNG.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)


def chosen(found, goal, count=256, **options):
    """Choose branches of which a share may go; return the choice and the branches."""
    traced = trace(found)
    each = branches(traced)
    data = load_data({"x": RNG.standard_normal((count, WIDTH)).astype(np.float32)}, found.inputs)
    seen = calibration(found, data, "dense")
    return choose(traced, each, goal * all_macs(traced, each), seen, **{"rounds": 4, "rows": 4096, **options}), each


def all_macs(traced, each):
    return NodeMacs(traced).total(nodes_of(each))


def gone(choice):
    return [branch.name for branch in choice.removed]


def test_what_adds_nothing_goes_first():
    choice, each = chosen(network("loud", "dead", "loud", "dead"), 0.5)
    assert gone(choice) == ["o1", "o3"]
    assert set(choice.alone) == {branch.name for branch in each}
    assert choice.alone["o1"] == pytest.approx(0, abs=1e-6)
    assert choice.alone["o0"] > 0.01
    assert choice.measured >= len(each)


def test_what_its_neighbours_can_do_costs_nothing_either():
    """Two linear maps of a stream in a row: one of them can do what both do."""
    choice, _ = chosen(network("linear", "linear", "loud", "loud"), 0.34, rounds=1)
    assert gone(choice) in (["o0"], ["o1"])
    assert max(choice.alone["o0"], choice.alone["o1"]) < 1e-4
    assert min(choice.alone["o2"], choice.alone["o3"]) > 0.01


@pytest.mark.parametrize(("run", "expected"), [(0.1, ["o1", "o2"]), (9.0, ["o0", "o3"])])
def test_a_run_of_neighbours_goes_where_it_costs_less_than_what_goes_one_by_one(monkeypatch, run, expected):
    """Branches 0 and 3 are cheap by themselves and cost 0.9 together; 1 and 2 are dear, but not as one gap."""
    alone, seen = {0: 0.2, 1: 0.5, 2: 0.5, 3: 0.2}, []

    def losses_of(_self, text, looked, repairs):
        assert repairs
        seen.append((text, sorted(map(sorted, looked))))
        known = {each: alone[min(each)] if len(each) == 1 else 1.0 for each in looked}
        return known | {frozenset({1, 2}): run} | {frozenset({0, 3}): 0.9} if len(looked[0]) > 1 else known, 0.0

    monkeypatch.setattr(depth.Chooser, "_sweep", losses_of)
    choice, _ = chosen(network("loud", "loud", "loud", "loud"), 0.5, rounds=2)
    assert gone(choice) == expected
    assert seen[-1] == ("choosing branches, runs of neighbours", [[0, 1], [0, 3], [1, 2], [2, 3]])


def test_branches_are_looked_at_without_repair_and_the_better_ones_measured_with_it(monkeypatch):
    """Of eight branches the dear half is not measured again; what was known of it is what it costs without repair."""
    seen = []

    def losses_of(_self, text, looked, repairs):
        seen.append((text, repairs, sorted(map(min, looked))))
        return {each: (0.1 if repairs else 1.0) + min(each) for each in looked}, 0.0

    monkeypatch.setattr(depth.Chooser, "_sweep", losses_of)
    choice, _ = chosen(network(*["loud"] * 8), 0.13, rounds=1, screened=0.5)
    assert seen == [("looking at branches", False, [*range(8)]), ("choosing branches, round 1 of 1", True, [*range(4)])]
    assert gone(choice) == ["o0"]
    assert [round(choice.alone[f"o{at}"], 3) for at in range(8)] == [0.1, 1.1, 2.1, 3.1, 5, 6, 7, 8]


def test_runs_are_looked_at_without_repair_where_they_are_many(monkeypatch):
    runs = []

    def losses_of(_self, text, looked, repairs):
        if "runs" in text:
            runs.append((repairs, len(looked)))
        return {each: float(len(each)) + min(each) for each in looked}, 0.0

    monkeypatch.setattr(depth.Chooser, "_sweep", losses_of)
    chosen(network(*["loud"] * 14), 0.15, rounds=1)
    assert runs == [(False, 13), (True, 9)]  # with what was chosen one by one


@pytest.mark.parametrize(("goal", "count"), [(0.24, 0), (0.26, 1), (0.5, 2), (0.99, 3)])
def test_no_more_goes_than_is_asked_for(goal, count):
    choice, _ = chosen(network("loud", "loud", "loud", "loud"), goal)
    assert len(choice.removed) == count


def test_branches_that_are_named_go_and_count():
    choice, _ = chosen(network("loud", "dead", "loud", "dead"), 0.5, gone=("o0",))
    assert gone(choice) in (["o0", "o1"], ["o0", "o3"])


def test_the_same_is_chosen_again():
    found = network("loud", "linear", "dead", "loud")
    data = RNG.standard_normal((64, WIDTH)).astype(np.float32)
    seen = calibration(found, load_data({"x": data}, found.inputs), "dense")
    traced = trace(found)
    each = branches(traced)
    first, second = (choose(traced, each, 0.5 * all_macs(traced, each), seen, rounds=2, rows=4096) for _ in range(2))
    assert gone(first) == gone(second)
    assert first.alone == second.alone


def test_progress_says_which_round_it_is():
    told = []
    chosen(network("loud", "dead", "loud"), 0.4, rounds=2, progress=lambda text, *step: told.append((text, *step)))
    assert told[0] == ("choosing branches, round 1 of 2", 1, 3)


def repaired(chain, number, gone):
    """Return the weights that are refitted, what they aim at, and what is added to them."""
    return [(each.layer.weight, set(each.totals), each.added) for each in chain.repairs(number, gone)]


def chain_of(proto):
    found = load(proto) if isinstance(proto, onnx.ModelProto) else proto
    return Chain(found, branches(trace(found)))


def test_a_chain_knows_what_lies_in_front_of_a_gap_and_behind_it():
    chain = chain_of(network("loud", "loud", "loud", "loud", "loud"))
    assert repaired(chain, 2, {2}) == [("down1", {"s2", "o2"}, ("s1",)), ("down3", {"s3", "o3"}, ("s3",))]
    front = ("down0", {"s2", "o2"}, ("s0",))
    assert repaired(chain, 1, {1, 2}) == repaired(chain, 2, {1, 2}) == [front, ("down3", {"s3", "o3"}, ("s3",))]
    assert chain.end(0, {1, 2}) == 2
    assert [each.layer.weight for each in chain.all_repairs({1, 3}, {1, 3})] == ["down0", "down2", "down4"]


def test_the_layer_that_makes_a_stream_lies_in_front_of_its_first_branch():
    chain = chain_of(network("loud", "loud"))
    assert repaired(chain, 0, {0}) == [("first", {"s0", "o0"}, ()), ("down1", {"s1", "o1"}, ("s1",))]


def test_side_by_side_one_does_what_both_did():
    proto = model(
        "n = Relu(x)", "a = MatMul(n, w1)", "f = MatMul(n, w2)", "s = Add(a, f)", "t = Add(s, x)", "y = MatMul(t, w3)",
        x="float[n,s,16] x", w1=(16, 16), w2=(16, 16), w3=(16, 16),
    )  # fmt: skip
    chain = chain_of(proto)
    assert repaired(chain, 0, {0}) == [("w2", {"s", "x"}, ("x",))]
    assert repaired(chain, 1, {0, 1}) == []


def test_a_layer_behind_a_norm_or_in_another_form_is_fitted_to_its_own_output():
    proto = model(
        "a = MatMul(x, w1)", "s = Add(x, a)", "n = Relu(s)", "b = MatMul(n, w2)", "m = Mul(b, scale)",
        "t = Add(n, m)", "y = Relu(t)",
        x="float[n,s,16] x", w1=(16, 16), w2=(16, 16), scale=(16,),
    )  # fmt: skip
    chain = chain_of(proto)
    assert repaired(chain, 0, {0}) == [("w2", {"b"}, ())]
    assert repaired(chain, 1, {1}) == []  # the stream in front of it is no sum


SKIP = "com.microsoft.SkipSimplifiedLayerNormalization"


@pytest.mark.parametrize("bias", [False, True])
def test_a_fused_sum_that_adds_a_bias_hands_no_stream_on(bias):
    last = ", c" if bias else ""
    proto = model(
        "a = MatMul(x, w1)", f"n1, e1, e2, s1 = {SKIP}(x, a, g{last})", "b = MatMul(n1, w2)",
        f"n2, f1, f2, s2 = {SKIP}(s1, b, g)", "y = Add(n2, s2)",
        x="float[n,s,16] x", y="float[n,s,16] y", imports='"com.microsoft" : 1', infer=False,
        w1=(16, 16), w2=(16, 16), g=(16,), **({"c": (16,)} if bias else {}),
    )  # fmt: skip
    chain = chain_of(proto)
    assert repaired(chain, 1, {1}) == ([] if bias else [("w1", {"s1", "b"}, ("x",))])


def test_what_lies_inside_of_a_branch_that_is_gone_is_no_candidate_and_counts_once():
    nodes, weights = [], {}
    for number in range(3):
        now = f"s{number}" if number else "x"
        nodes += [f"i{number} = MatMul({now}, in{number})", f"b{number} = MatMul(i{number}, mid{number})"]
        nodes += [f"j{number} = Add(i{number}, b{number})", f"o{number} = MatMul(j{number}, out{number})"]
        nodes += [f"s{number + 1} = Add({now}, o{number})"]
        scale = 0.0 if number == 0 else 1.0
        weights |= {f"in{number}": matrix(), f"mid{number}": matrix(), f"out{number}": scale * matrix()}
    found = load(model(*nodes, "y = MatMul(s3, last)", x=f"float[n,{WIDTH}] x", last=matrix(), **weights))
    choice, each = chosen(found, 0.5, rounds=4)
    assert len(each) == 6
    macs, total = NodeMacs(trace(found)), all_macs(trace(found), each)
    assert "o0" in gone(choice)
    assert macs.total(nodes_of(choice.removed)) / total == pytest.approx(4 / 9)


def test_early_branches_are_measured_beside_gaps_that_are_repaired_behind_them():
    """Blocks 4 and 5 are linear, and 5 is gone: 4 does the work of both, whichever branch is looked at."""
    found = network("loud", "loud", "loud", "loud", "linear", "linear", "loud", "loud")
    choice, _ = chosen(found, 0.4, count=512, gone=("o5",), rounds=1)
    alone, _ = chosen(found, 0.2, count=512, rounds=1)
    assert choice.alone["o0"] < 3 * alone.alone["o0"] + 1e-3


def test_no_more_batches_are_run_than_fits_and_losses_need():
    found = network("loud", "loud")
    data = load_data({"x": RNG.standard_normal((20_000, WIDTH)).astype(np.float32)}, found.inputs)
    seen = calibration(found, data, "dense")
    traced = trace(found)
    chain = Chain(found, branches(traced))
    few = fewer(traced, [layer for layer in chain.layers if layer], seen, 4096)
    assert few.evaluated == len(seen.judged) == len(few.held)
    assert len(few.batches) == len(seen.judged) + 4096 // seen.counts[0]
    alone = replace(seen, batches=seen.batches[:1], counts=seen.counts[:1])
    assert fewer(traced, [layer for layer in chain.layers if layer], alone, 4096) is alone


def test_few_samples_are_enough_to_look_at_branches(monkeypatch):
    seen = []
    real = depth.Chooser._judged
    monkeypatch.setattr(depth.Chooser, "_judged", lambda self, most: seen.append(real(self, most)) or seen[-1])
    chosen(network(*["loud"] * 8), 0.13, count=512, rounds=1, screened=0.5)
    assert [len(each) for each in seen] == [1, 4]  # batches of 16
