"""Which branches go: those without which the output loses least, once their neighbours are refitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxprune.calibration.batches import calibration
from onnxprune.data.samples import load_data
from onnxprune.dependency.branches import branches, macs_of
from onnxprune.dependency.trace import trace
from onnxprune.graph.read import load
from onnxprune.planning.depth import Chain, choose, fewer
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
    return choose(traced, each, goal * macs_of(traced, each), seen, **{"rounds": 4, "rows": 4096, **options}), each


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
    first, second = (choose(traced, each, 0.5 * macs_of(traced, each), seen, rounds=2, rows=4096) for _ in range(2))
    assert gone(first) == gone(second)
    assert first.alone == second.alone


def test_progress_says_which_round_it_is():
    told = []
    chosen(network("loud", "dead", "loud"), 0.4, rounds=2, progress=lambda text, *step: told.append((text, *step)))
    assert told[0] == ("choosing branches, round 1 of 2", 1, 3)


def test_a_chain_knows_what_lies_in_front_of_a_gap_and_behind_it():
    found = network("loud", "loud", "loud", "loud", "loud")
    chain = Chain(found, branches(trace(found)))
    assert chain.front(2, {2}) == 1
    assert chain.front(2, {1, 2}) == 0
    assert chain.front(0, {0}) is None
    assert (chain.end(0, {1, 2}), chain.end(0, {2})) == (2, 0)
    assert chain.behind(1, {1, 2}) == [3]
    assert chain.repaired({1, 2}) == [0, 3]


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
