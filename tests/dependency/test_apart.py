"""What units have alone: where it begins, what follows from a unit that is not picked, and what goes with it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

from onnxprune.dependency import cost
from onnxprune.dependency.apart import gone_nodes, weights_apart
from onnxprune.dependency.groups import EXPERTS, groups
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.verify import verify
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.surgery.rewrite import new_sizes, rewrite
from tests.support.build import model
from tests.support.experts import mixture, parts
from tests.support.unrolled import BY_PRODUCT, EACH, ONCE, by_weight, dense, gathered, interleaved

TOTALS = {"gathered": "f3", "gathered, added once": "f3", "dense": "t4"}
FORMS = {
    "gathered": gathered("OneHot", EACH),
    "gathered, added once": gathered("Equal", ONCE),
    "gathered, added by a product": gathered("OneHot", BY_PRODUCT),
    "gathered by their weights": by_weight(),
    "dense": dense("Gather"),
    "dense, sliced": dense("Slice"),
    "dense, compared": dense("Equal"),
}
OF_EXPERT = ("s{}", "z{}", "h{}", "u{}", "a{}", "d{}", "o{}", "w{}", "wu{}", "fa{}", "eq{}")


def of_experts(proto):
    """Return a trace and the group of its experts."""
    traced = trace(load(proto))
    (group,) = (group for group in groups(traced) if group.kind == EXPERTS or group.name == "router")
    return traced, group


def without(group, *removed):
    """Return a mask of the experts that are kept."""
    return {group.atom: ~np.isin(np.arange(group.units), removed)}


@pytest.mark.parametrize("name", FORMS)
def test_all_that_an_expert_has_alone_goes_with_it(name):
    traced, group = of_experts(mixture(single=FORMS[name]))
    for removed in [(0,), (3,), *itertools.combinations(range(4), 2)]:
        kept = without(group, *removed)
        rewritten = rewrite(traced, kept)
        verification = verify(traced, kept, view(rewritten.proto))
        assert verification.passed, verification.problem
        left = {name for node in rewritten.proto.graph.node for name in (node.name, *node.output)}
        weights = {tensor.name for tensor in rewritten.proto.graph.initializer}
        for expert in range(4):
            own = {each.format(expert) for each in OF_EXPERT} & {node.name for node in traced.model.nodes}
            assert own.isdisjoint(left) if expert in removed else own <= left
            assert (f"up{expert}" in weights) == (f"down{expert}" in weights) == (expert not in removed)
            assert (rewritten.cuts.get(f"up{expert}") is not None) == (expert in removed)
        assert all(rewritten.cuts[f"up{expert}"].kept == {0: ()} for expert in removed)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("removed", [(0,), (0, 1)])
def test_what_is_left_of_a_sum_is_cut_as_the_rest(name, removed):
    nodes, own = parts(single=FORMS[name])
    traced = trace(load(model(*nodes, **{**own, "x": "float[12,8] x", "y": "float[12,5] y"})))  # zeros are constants
    inside = {each.name: each for each in groups(traced) if each.name in ("down0", "router", "up2")}
    kept = {**without(inside["router"], *removed), **without(inside["down0"], 1, 5), **without(inside["up2"], 0)}
    verification = verify(traced, kept, view(rewrite(traced, kept).proto))
    assert verification.passed, verification.problem


@pytest.mark.parametrize(("of_first", "of_second"), [((1,), (0,)), ((2,), (1,)), ((1, 2), (0, 1)), ((0,), (0, 3))])
def test_experts_of_two_mixtures_that_one_sum_adds_in_turns(of_first, of_second):
    weights = {"routerb": (8, 4), **{f"up{e}b": (8, 6) for e in range(4)}, **{f"down{e}b": (6, 8) for e in range(4)}}
    traced = trace(load(mixture(single=interleaved(), **weights)))
    first, second = (group for group in groups(traced) if group.kind == EXPERTS)
    kept = {**without(first, *of_first), **without(second, *of_second)}
    pruned = rewrite(traced, kept).proto
    verification = verify(traced, kept, view(pruned))
    assert verification.passed, verification.problem
    left = {tensor.name for tensor in pruned.graph.initializer}
    assert {f"up{e}" for e in of_first}.isdisjoint(left)
    assert {f"up{e}b" for e in of_second}.isdisjoint(left)


@pytest.mark.parametrize("name", TOTALS)
def test_a_sum_that_the_model_gives_keeps_its_name(name):
    proto, total = mixture(single=FORMS[name]), TOTALS[name]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(total, onnx.TensorProto.FLOAT, ["n", 8]))
    traced, group = of_experts(proto)
    kept = without(group, 3)
    pruned = rewrite(traced, kept).proto
    assert [each.name for each in pruned.graph.output] == ["y", total]
    verification = verify(traced, kept, view(pruned))
    assert verification.passed, verification.problem


def test_what_an_expert_has_alone_is_no_output():
    proto = mixture(single=gathered())
    proto.graph.output.append(onnx.helper.make_tensor_value_info("o1", onnx.TensorProto.FLOAT, ["m", 8]))
    _, group = of_experts(proto)
    assert group.locked == "Mul hands what one unit alone has out of its graph (at o1)"


def test_outputs_that_a_node_of_an_expert_leaves_out_are_no_obstacle():
    normed = "hn1, , is1 = LayerNormalization(h1, scale)"
    nodes = [each for node in gathered() for each in ((node, normed) if node.startswith("h1 ") else (node,))]
    nodes = [node.replace("MatMul(h1, up1)", "MatMul(hn1, up1)") for node in nodes]
    traced, group = of_experts(mixture(single=nodes, scale=np.ones(8, np.float32)))
    kept = without(group, 1)
    assert verify(traced, kept, view(rewrite(traced, kept).proto)).passed


@pytest.mark.parametrize("name", FORMS)
def test_weights_are_counted_with_their_expert(name):
    traced, group = of_experts(mixture(single=FORMS[name]))
    assert group.alone == tuple((f"up{e}", f"down{e}") for e in range(4))
    assert group.params == 4 * (8 + 1 + 2 * 6 * 8)  # a column and a bias of the router, two matrices
    fans = [matrix.shape for _, matrix in matrices(group, traced)]
    assert fans.count((4, 48)) == 2


def test_a_weight_of_two_experts_goes_with_neither():
    nodes = tuple(node.replace("up1", "up0") for node in gathered())
    traced, group = of_experts(mixture(single=nodes))
    assert group.alone == (("down0",), ("down1",), ("up2", "down2"), ("up3", "down3"))
    kept = without(group, 1)
    pruned = rewrite(traced, kept).proto
    assert "up0" in {tensor.name for tensor in pruned.graph.initializer}
    assert verify(traced, kept, view(pruned)).passed


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("removed", [(0,), (1, 2)])
def test_costs_are_those_of_what_is_left(name, removed):
    traced, group = of_experts(mixture(single=FORMS[name]))
    kept = without(group, *removed)
    after = trace(view(rewrite(traced, kept).proto))
    assert cost.macs_of_kept(traced, kept) == cost.macs(after)
    counter, sizes = cost.Counter(traced), new_sizes(kept)
    assert counter.count("params", sizes) == pytest.approx(after.model.stored_params)
    assert counter.count("macs", sizes) == pytest.approx(cost.macs(after))


@pytest.mark.parametrize("name", FORMS)
def test_a_file_is_as_small_as_foretold(name):
    """On the average over experts: of a sum of four there are three nodes. What states sizes at run time is added."""
    traced, group = of_experts(mixture(single=FORMS[name]))
    counter = cost.Counter(traced)
    bytes_of = [
        len(rewrite(traced, without(group, *gone)).proto.SerializeToString()) for gone in ((), (0,), (1,), (2,), (3,))
    ]
    saved = counter.count("size", {}) - counter.count("size", new_sizes(without(group, 0)))
    assert saved == pytest.approx(bytes_of[0] - np.mean(bytes_of[1:]), abs=16)
    assert saved > 1.2 * (4 * 2 * 48)  # of the weights alone


def in_body(single):
    """Return a model that has a mixture in one branch of an If."""
    nodes, own = parts(single=single)
    inner = " ".join(nodes[2:-1])
    text = f"<then_branch = one () => (b) {{ {inner} }}, else_branch = two () => (e) {{ e = Identity(x) }}>"
    return model(
        *nodes[:2], f"c = If{text}(f)", "y = MatMul(c, head)", infer=False, **{**own, "x": "float[n,8] x, bool f"}
    )


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("removed", [(0,), (1, 2)])
def test_experts_in_a_branch_are_counted_as_elsewhere(name, removed):
    traced, group = of_experts(in_body(FORMS[name]))
    assert group.alone == tuple((f"up{e}", f"down{e}") for e in range(4))
    kept, counter, sizes = without(group, *removed), cost.Counter(traced), new_sizes(without(group, *removed))
    pruned = rewrite(traced, kept)
    after = trace(view(pruned.proto))
    assert verify(traced, kept, after.model).passed
    assert {f"up{e}" for e in removed} < pruned.cuts.keys()
    assert cost.macs_of_kept(traced, kept) == cost.macs(after)
    assert counter.count("params", sizes) == pytest.approx(after.model.stored_params)
    assert counter.count("macs", sizes) == pytest.approx(cost.macs(after))
    bytes_of = [len(rewrite(traced, without(group, *gone)).proto.SerializeToString()) for gone in ((), removed)]
    saved = counter.count("size", {}) - counter.count("size", sizes)
    assert saved == pytest.approx(bytes_of[0] - bytes_of[1], abs=64)


@pytest.mark.parametrize("nodes", [gathered(), gathered("Equal", ONCE), by_weight()], ids=range(3))
def test_rows_that_are_picked_are_as_many_with_fewer_experts(nodes):
    traced, group = of_experts(mixture(single=nodes))
    of_router, of_picked = 8 * 4, 2 * (2 * 6 * 8)  # two experts answer a row
    layers = [node.index for node in traced.model.nodes if node.name[:-1] in ("u", "d")]
    assert cost.NodeMacs(traced).total(layers) == of_picked
    assert cost.macs(traced) - cost.macs_of_kept(traced, without(group, 0, 1)) == of_router // 2
    assert cost.macs_by_atom(traced)[group.atom] == of_router


def test_experts_that_see_all_rows_take_their_work_with_them():
    traced, group = of_experts(mixture(single=dense()))
    assert cost.macs_by_atom(traced)[group.atom] == 8 * 4 + 4 * (2 * 6 * 8)


def test_nodes_and_weights_of_removed_experts():
    traced, group = of_experts(mixture(single=dense()))
    names = {traced.model.nodes[index].name for index in gone_nodes(traced.apart, without(group, 2))}
    assert names == {"u2", "a2", "d2", "w2", "wu2", "o2"}
    assert {traced.model.nodes[index].name for index in traced.apart[group.atom].ends} == {"t2", "t3", "t4"}
    assert gone_nodes(traced.apart, {}) == frozenset()
    assert weights_apart(traced.model, {}) == {}


def test_a_weight_that_the_model_gives_stays_when_its_expert_goes():
    proto = mixture(single=gathered())
    proto.graph.output.append(onnx.helper.make_tensor_value_info("up1", onnx.TensorProto.FLOAT, [8, 6]))
    traced, group = of_experts(proto)
    assert group.alone == (("up0", "down0"), ("down1",), ("up2", "down2"), ("up3", "down3"))
    after = view(rewrite(traced, without(group, 1)).proto)
    assert "up1" in after.constants
    assert "down1" not in after.constants
