"""Every rule, every refusal and every structure: one table each, one oracle for all."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from onnxprune.criteria.importance import score
from onnxprune.dependency.axes import Atom
from onnxprune.dependency.groups import groups
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.partition import Partition
from onnxprune.dependency.rules import RULES, Entry, Site
from onnxprune.dependency.rules.registry import line, rule
from onnxprune.dependency.rules.reshape import blocks
from onnxprune.dependency.trace import trace
from onnxprune.errors import CannotUnify
from onnxprune.evaluation.settings import settings
from onnxprune.evaluation.verify import verify
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.model import Node
from onnxprune.graph.shapes.probe import probe
from onnxprune.graph.view import view
from onnxprune.runtime.random_feeds import random_feeds
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import rewrite
from tests.dependency.rules.cases import CASES as PLAIN
from tests.dependency.rules.fused_cases import FUSED
from tests.dependency.rules.refusals import REFUSALS
from tests.dependency.rules.structures import STRUCTURES
from tests.support.build import ROWS, conv, dense, model
from tests.support.oracle import check

CASES = (*PLAIN, *FUSED)
ALL = (*CASES, *STRUCTURES, *REFUSALS)
RUNNABLE = [case for case in ALL if not case.trace_only]
OF_PORTS = (
    "it is part of the graph input",
    "it is part of the graph output",
    "it is part of a cache, which the model takes and gives back",
)
NEVER_CUT = {
    "AffineGrid",
    "EyeLike",
    "ImageScaler",
    "LRN",
    "NonZero",
    "Range",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceLength",
    "com.microsoft.EmbedLayerNormalization",
}  # all is locked, or mixed over; or there are sequences alone


def traced_anew(case):
    return trace(view(case.proto) if case.trace_only else load(case.proto))


_TRACES = {}


def traced_of(case):
    """Return the trace of a case, which is the same for all tests of a process."""
    name = str(case)
    if name not in _TRACES:
        _TRACES[name] = traced_anew(case)
    return _TRACES[name]


def free(found):
    return ", ".join(f"{g.units} {g.kind}{' inside' * g.inner}" for g in found if g.locked is None and g.exact)


def lock_reasons(found):
    reasons = {group.lock.reason for group in found if group.lock}
    return {reason for reason in reasons if not reason.startswith(OF_PORTS)}


def mix_reasons(found):
    return {g.mixed.reason for g in found if g.mixed and not g.lock}


def stated(proto, place):
    """Return an attribute ``node.name`` or an input ``node:slot``; None for what is absent or known at run time."""
    pruned = view(proto)
    name, attribute = place.replace(":", ".").split(".")
    node = next(node for node in pruned.nodes if node.name == name)
    return probe(pruned).static_entries(node.inputs[int(attribute)]) if ":" in place else node.attrs.get(attribute)


def test_every_rule_has_a_case_and_every_case_a_rule():
    tested = {case.op for case in CASES}
    assert not set(RULES) - tested, "rules without a case"
    assert not tested - set(RULES), "cases without a rule"


def test_names_of_cases_are_unique():
    names = [str(case) for case in ALL]
    assert not [name for name in names if names.count(name) > 1]


@pytest.mark.parametrize("case", [*CASES, *REFUSALS], ids=str)
def test_case_contains_its_op(case):
    assert case.op in {node.op for node in view(case.proto).nodes}


@pytest.mark.parametrize("op", sorted(set(RULES) - NEVER_CUT))
def test_a_cut_goes_through_the_op(op):
    """In some case of each op an axis of its inputs or outputs has free units, so that its rule really works."""
    for case in CASES:
        if case.op != op:
            continue
        traced = traced_of(case)
        cut = {group.atom for group in groups(traced) if group.locked is None and group.exact}
        for node in traced.model.nodes:
            values = [traced.values.get(name, ()) for name in (*node.inputs, *node.outputs)]
            if node.op == op and cut & {
                atom for axes in values for axis in axes for atom in traced.partition.atoms(axis)
            }:
                return
    pytest.fail(f"no case cuts an axis of {op}")


@pytest.mark.parametrize("case", ALL, ids=str)
def test_groups(case):
    found = groups(traced_anew(case))
    assert free(found) == case.cut
    assert lock_reasons(found) == set(case.locks)
    assert mix_reasons(found) == set(case.inexact)


@pytest.mark.parametrize("case", RUNNABLE, ids=str)
@pytest.mark.parametrize("shares", [(0.25, 0.5), pytest.param((0.75, 0.0), marks=pytest.mark.soak)], ids=str)
def test_masked_and_pruned_agree(case, shares):
    traced = traced_of(case)
    for seed, share in enumerate(shares):
        checked = check(traced, seed=seed, share=share)
        if case.at:
            check(traced, seed=seed, share=share, at=case.at)
    for name in checked.cut if len(checked.cut) > 1 else ():
        check(traced, only=[name], seed=9)
        if case.at:
            check(traced, only=[name], seed=9, at=case.at)


@pytest.mark.parametrize("case", [case for case in RUNNABLE if case.inexact], ids=str)
def test_what_is_mixed_over_can_be_cut_when_asked_for(case):
    for seed, share in enumerate((0.5, 0.25, 0.75)):
        checked = check(traced_of(case), seed=seed, share=share, width=True)
        assert any(not group.exact for group in checked.groups if group.name in checked.cut)


@pytest.mark.parametrize("case", [case for case in ALL if case.after], ids=str)
def test_sizes_follow_the_cut(case):
    traced = traced_of(case)
    kept = {g.atom: first_units(g.units, 0.5) for g in groups(traced) if g.locked is None and g.exact}
    pruned = rewrite(traced, kept).proto
    assert {place: stated(pruned, place) for place in case.after} == case.after


def first_units(count, share):
    return np.arange(count) < max(1, round(count * share))


@pytest.mark.parametrize("case", [case for case in ALL if case.trace_only], ids=str)
def test_what_cannot_run_is_rewritten_all_the_same(case):
    """The rest of the graph is cut, and what comes out is as valid as what went in."""
    traced = traced_of(case)
    kept = {g.atom: first_units(g.units, 0.5) for g in groups(traced) if g.locked is None and g.exact}
    pruned = rewrite(traced, kept).proto
    if problems(case.proto) is None:
        assert problems(pruned) is None
    assert [info.name for info in pruned.graph.output] == [info.name for info in case.proto.graph.output]


@pytest.mark.parametrize("case", [case for case in RUNNABLE if case.cut], ids=str)
def test_case_is_not_vacuous(case):
    """Outputs are finite numbers, and masking half of the units changes them."""
    traced = traced_of(case)
    kept = {g.atom: first_units(g.units, 0.5) for g in groups(traced) if g.locked is None and g.exact and g.units > 1}
    whole = open_session(case.proto.SerializeToString())
    part = open_session(masked(traced, kept).SerializeToString())
    for feeds in (each.feeds for each in settings(traced.model, whole)):
        before, after = whole.run(feeds), part.run(feeds)
        assert all(np.isfinite(value).all() for value in (*before.values(), *after.values()))
        assert any(not np.allclose(before[name], after[name]) for name in before)


@pytest.mark.parametrize("case", [case for case in RUNNABLE if case.cut or case.inexact], ids=str)
@pytest.mark.parametrize("criterion", ["l2", pytest.param("fpgm", marks=pytest.mark.soak)])
def test_units_are_scored(case, criterion):
    """Whatever carries the units, and however it is stored."""
    traced = traced_of(case)
    for group in groups(traced):
        scores = score(criterion, matrices(group, traced), np.random.default_rng(0))
        assert scores is None or (scores.shape == (group.units,) and np.isfinite(scores).all())


def test_groups_of_eight_rows_need_a_batch_of_eight():
    proto = model(
        "a = MatMul(x, w1)", "r = Reshape(a, t)", "m = ReduceSum<keepdims=0>(r, one)", "y = MatMul(m, w2)", x=ROWS,
        w1=(6, 16), t=[-1, 8, 16], one=[1], w2=(16, 3)
    )  # fmt: skip
    for at in ({"n": 8}, {"n": 16}, {"n": 24}):
        checked = check(proto, at=[at])
        assert free(checked.groups) == "16 neurons"
        assert stated(checked.pruned, "r:1") == [-1, 8, 8]


@pytest.mark.parametrize("case", [case for case in RUNNABLE if case.cut and case.at], ids=str)
def test_sizes_that_a_case_names_are_not_vacuous(case):
    """On these sizes, too, masking changes the outputs, and the case is one that the dense model takes."""
    traced = traced_of(case)
    kept = {g.atom: first_units(g.units, 0.5) for g in groups(traced) if g.locked is None and g.exact}
    whole = open_session(case.proto.SerializeToString())
    part = open_session(masked(traced, kept).SerializeToString())
    for dims in case.at:
        feeds = random_feeds(traced.model.inputs, dims, 0)
        before, after = whole.run(feeds), part.run(feeds)
        assert any(not np.allclose(before[name], after[name]) for name in before)


# -- kept numbers, copies, precision ---------------------------------------------------------------------


def test_attention_scale_is_that_of_the_original():
    case = next(case for case in STRUCTURES if str(case) == "computed-scale")
    checked = check(case.proto)
    values = {t.name: t for t in checked.pruned.graph.initializer}
    consumer = next(node for node in view(checked.pruned).nodes if node.name == "scaled")
    assert "Shape" not in {node.op for node in view(checked.pruned).nodes}
    assert stored(values[consumer.inputs[1]]) == pytest.approx(0.5)


def stored(tensor):
    return np.frombuffer(tensor.raw_data, np.float32).item()


def test_a_shared_bias_is_copied_where_its_layers_keep_different_units():
    case = next(case for case in STRUCTURES if str(case) == "shared-zero-bias")
    traced = trace(load(case.proto))
    first, second = (g for g in groups(traced) if g.locked is None)
    pruned = rewrite(traced, {first.atom: first_units(8, 0.5), second.atom: first_units(8, 0.25)}).proto
    biases = {node.name: node.inputs[2] for node in view(pruned).nodes if len(node.inputs) > 2}
    sizes = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert [sizes[biases[name]] for name in "ab"] == [[4], [2]]


def test_a_shared_bias_stays_shared_where_its_layers_agree():
    case = next(case for case in STRUCTURES if str(case) == "shared-zero-bias")
    traced = trace(load(case.proto))
    pruned = rewrite(traced, {g.atom: first_units(8, 0.5) for g in groups(traced) if g.locked is None}).proto
    assert {node.inputs[2] for node in view(pruned).nodes if len(node.inputs) > 2} == {"zero"}


def test_a_shared_bias_stays_whole_for_a_layer_that_is_not_cut():
    case = next(case for case in STRUCTURES if str(case) == "shared-zero-bias")
    traced = trace(load(case.proto))
    first = next(g for g in groups(traced) if g.locked is None)
    pruned = rewrite(traced, {first.atom: first_units(8, 0.5)}).proto
    sizes = {t.name: list(t.dims) for t in pruned.graph.initializer}
    assert sizes["zero"] == [8]
    assert sizes[view(pruned).nodes[0].inputs[2]] == [4]


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 17, 18, 20, 21, 22])
def test_one_network_in_every_opset(opset):
    proto = conv(
        "c = Conv(a, k)",
        "r = Relu(c)",
        "d = Conv<group=16, pads=[1, 1, 1, 1]>(r, l)",
        "e = Conv(d, m)",
        "f = Add(a, e)",
        "g = GlobalAveragePool(f)",
        "s = Sigmoid(g)",
        "h = Mul(f, s)",
        "t = Transpose<perm=[0, 2, 3, 1]>(h)",
        "u = MatMul(t, o)",
        "v = Softmax<axis=3>(u)",
        "w = MatMul(u, p)",
        "z = Transpose<perm=[0, 3, 1, 2]>(w)",
        "q = Flatten<axis=1>(z)",
        "b = Reshape(q, shape)",
        k=(16, 8, 1, 1),
        l=(16, 1, 3, 3),
        m=(8, 16, 1, 1),
        o=(8, 12),
        p=(12, 8),
        shape=[0, 8, 6, 6],
        opset=opset,
    )
    checked = check(proto)
    assert free(checked.groups) == "8 channels, 16 channels, 8 channels"
    assert mix_reasons(checked.groups) == {"Softmax normalises over it"}
    assert stated(checked.pruned, "d.group") == 8
    assert stated(checked.pruned, "b:1") == [0, 4, 6, 6]


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "float16"), ("float64", "double")])
def test_other_precisions(dtype, kind):
    proto = dense("c = Mul(a, k)", "b = Relu(c)", k=(8,), x=f"{kind}[n,6] x", y=f"{kind}[] y", dtype=dtype)
    traced = trace(load(proto))
    kept = {g.atom: first_units(g.units, 0.5) for g in groups(traced) if g.prunable}
    pruned = rewrite(traced, kept).proto
    verification = verify(traced, kept, view(pruned))
    assert kept
    assert verification.passed, verification.problem
    assert {t.data_type for t in pruned.graph.initializer} == {t.data_type for t in proto.graph.initializer}


def test_float16_weights_behind_cast_keep_their_type():
    case = next(case for case in STRUCTURES if str(case) == "weight-cast")
    checked = check(case.proto)
    weight = next(t for t in checked.pruned.graph.initializer if t.name == "w1")
    assert (weight.data_type, list(weight.dims)) == (10, [6, 4])


def test_weights_listed_as_inputs_are_listed_with_their_new_shape():
    case = next(case for case in STRUCTURES if str(case) == "weights-listed-as-inputs")
    checked = check(case.proto)
    listed = {port.name: [d.dim_value for d in port.type.tensor_type.shape.dim] for port in checked.pruned.graph.input}
    assert listed == {"x": [0, 3, 6, 6], "w1": [4, 3, 1, 1], "b1": [4], "w2": [5, 4, 1, 1]}


def test_shapes_between_nodes_are_those_of_the_pruned_graph():
    checked = check(conv("b = Relu(a)"))
    dims = {
        i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim]
        for i in checked.pruned.graph.value_info
    }
    assert dims == {"a": ["n", 4, 6, 6], "b": ["n", 4, 6, 6]}


# -- locks beside weights ----------------------------------------------------------------------------------

RUN_TIME = "its size is known at run time alone"


@pytest.mark.parametrize(
    ("proto", "value", "dim", "reason"),
    [
        (conv("b = MaxPool<kernel_shape=[2, 2]>(a)"), "b", 2, "its size is computed by MaxPool"),
        (conv("b = Relu(a)"), "x", 0, "it is part of the graph input 'x'"),
        (conv("b = Relu(a)"), "y", 1, "it is part of the graph output 'y'"),
        (
            model("s = Shape(x)", "z = ConstantOfShape(s)", "y = Neg(z)", x=ROWS, y="float[n,6] y"),
            "z",
            0,
            RUN_TIME,
        ),
        (
            model("s = Shape(x)", "e = Expand(k, s)", "y = Neg(e)", x=ROWS, y="float[n,6] y", k=(1, 6)),
            "e",
            0,
            RUN_TIME,
        ),
    ],
    ids=["computed", "input", "output", "constant-of-shape", "expand"],
)
def test_axes_without_weights_are_locked(proto, value, dim, reason):
    traced = trace(load(proto))
    (atom,) = traced.partition.atoms(traced.values[value][dim])
    assert traced.partition.lock_of(atom).reason == reason


def test_a_rule_that_contradicts_the_shapes_is_a_lock(monkeypatch):
    def turned(site):
        site.output(site.axes(0)[::-1])

    monkeypatch.setitem(RULES, "Relu", Entry("Relu", turned, "function", ""))
    found = groups(trace(load(conv("b = Relu(a)"))))
    assert lock_reasons(found) == {"its rule gives (6, 6, 8, 11) for 'b' of shape (11, 8, 6, 6)"}


# -- the notation, where no op gets ------------------------------------------------------------------------


def site(*shapes, outputs=((6,),), **attrs):
    """Return a Site of a node with inputs and outputs of the given shapes."""
    names = [f"i{slot}" if shape is not None else "" for slot, shape in enumerate(shapes)]
    made = [f"o{index}" for index in range(len(outputs))]
    node = Node(0, "node", "Op", 18, tuple(names), tuple(made), attrs)
    shape_of = dict(zip(made, outputs, strict=True))
    probed = SimpleNamespace(
        shape=shape_of.get, is_static=lambda name, dim: True, dtype=lambda name: np.dtype(np.float32)
    )
    axes = [None if shape is None else tuple(Atom(size, "s") for size in shape) for shape in shapes]
    return Site(node, axes, Partition(), probed)


@pytest.mark.parametrize(
    ("given", "text", "message"),
    [
        (site((6,)), "a, b -> a", "Op has 1 inputs, expected a, b -> a"),
        (site((6,), (6,)), "a -> a", "Op has 2 inputs, expected a -> a"),
        (site((6,), outputs=((6,), (6,))), "a -> a", "Op has 2 outputs, expected a -> a"),
        (site((6,), outputs=((6,),)), "a b -> a", "input 0 has 1 axes, expected 'a b'"),
        (site((6,)), "(a b) -> a", "sizes of '(a b)' in '(a b) -> a' cannot be told from the shapes"),
        (site((6,), (4,)), "a, a -> a", "'a' is 6 and 4"),
        (site((6,), (4,), (5,)), "(a b), a, b -> a", "'(a b)' is 20 and 6"),
        (site((6,), (4,), (5,)), "[a + b], a, b -> a", "'[a + b]' is 9 and 6"),
        (site((6,), (4,)), "(a b), a -> a", "'(a b)' has 6 indices, no multiple of 4"),
        (site((6,), outputs=(None,)), "a -> a t", "the shape of output 0 is unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_line_that_does_not_fit(given, text, message):
    with pytest.raises(CannotUnify) as caught:
        given.match(text)
    assert str(caught.value) == message


def test_a_line_with_sums_and_size_one():
    given = site((9,), (4,), (1,), outputs=((4,), (5,)))
    given.match("[a + b], a, 1 -> a, b")
    outputs = given.coupling.outputs
    assert [axis.size for axes in outputs for axis in axes] == [4, 5]
    assert [part.size for part in given.partition.resolve(given.coupling.inputs[0][0]).parts] == [4, 5]


def test_a_line_of_nested_sums():
    given = site((12,), (2,), (4,), outputs=((2,),))
    given.match("(h [a + b]), h, a -> b")
    assert given.partition.show(given.coupling.inputs[0][0]) == "(s:2 [s:4 + b:2])"


def alike(sizes):
    """Return static sizes, as three settings of the probe give them."""
    return [(size,) * 3 for size in sizes]


@pytest.mark.parametrize(("before", "after"), [([5, 3], [2]), ([2], [5, 3]), ([2, 3], [7])])
def test_blocks_of_different_counts(before, after):
    with pytest.raises(CannotUnify, match="elements are reshaped to"):
        list(blocks(alike(before), alike(after)))


@pytest.mark.parametrize(
    ("before", "after"), [([(8, 2)], [(8, 3)]), ([(2, 3), (4, 4)], [(8, 8)]), ([(2, 2)], [(2, 2), (1, 3)])], ids=str
)
def test_blocks_of_different_counts_under_one_setting_alone(before, after):
    with pytest.raises(CannotUnify, match="elements are reshaped to"):
        list(blocks(before, after))


@pytest.mark.parametrize(("before", "after"), [([4, 0], [0]), ([3, 1, 1], [3]), ([], [1]), ([5, 1], [1, 5]), ([], [])])
def test_blocks_cover_all_dims(before, after):
    before, after = alike(before), alike(after)
    found = list(blocks(before, after))
    assert [dim for ins, _ in found for dim in before[ins]] == before
    assert [dim for _, outs in found for dim in after[outs]] == after


H, W = (224, 320), (256, 352)  # under two settings


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([(2, 2), (6, 6), (4, 4), (5, 5)], [(2, 2), (8, 8), (3, 3), (5, 5)], [((0, 1), (0, 1)), ((1, 3), (1, 3)),
                                                                              ((3, 4), (3, 4))]),
        ([(12, 12), H, W], [(12, 12), W, H], [((0, 1), (0, 1)), ((1, 3), (1, 3))]),
        ([(12, 12), H, W], [(12, 12), H, W], [((0, 1), (0, 1)), ((1, 2), (1, 2)), ((2, 3), (2, 3))]),
        # 11 is the size of the first dim under the first setting alone: no boundary
        ([(11, 13), (11, 11)], [(11, 11), (11, 13)], [((0, 2), (0, 2))]),
        ([(7, 7), (6, 4), (4, 6)], [(7, 7), (6, 6), (4, 4)], [((0, 1), (0, 1)), ((1, 3), (1, 3))]),
        # aligned under the second setting alone
        ([(2, 4), (6, 3)], [(3, 4), (4, 3)], [((0, 2), (0, 2))]),
        ([(5, 2), (4, 4), (3, 3)], [(5, 2), (12, 12)], [((0, 1), (0, 1)), ((1, 3), (1, 2))]),
        # under the last of three
        ([(17, 19, 2), (4, 4, 4)], [(2, 2, 2), (34, 38, 4)], [((0, 2), (0, 2))]),
    ],
    ids=["static", "sides-exchanged", "sides-kept", "first-alone", "first-alone-inside", "second-alone", "dynamic",
         "last-of-three"],
)  # fmt: skip
def test_blocks_are_aligned_under_every_setting(before, after, expected):
    found = [((ins.start, ins.stop), (outs.start, outs.stop)) for ins, outs in blocks(before, after)]
    assert found == expected


def test_a_letter_that_an_attribute_sizes_is_written_back():
    given = site((6,), group=3)
    given.match("(g a) -> (g a)", sizes={"g": "group"})
    (write,) = given.coupling.writes
    assert (write.target, write.sizes[0].size, write.scalar) == ("group", 3, True)


def test_group_normalization_scales_groups_before_opset_21():
    given = site((5, 8, 6, 6), (4,), (4,), outputs=((5, 8, 6, 6),), num_groups=4)  # onnx loads it from 21 on alone
    RULES["GroupNormalization"].apply(given)
    groups_of_scale, inside = given.partition.atoms(given.coupling.inputs[0][1])
    assert given.partition.atoms(given.coupling.inputs[1][0]) == (groups_of_scale,)
    assert (groups_of_scale.size, inside.size) == (4, 2)


def test_an_absent_input_is_a_refusal():
    with pytest.raises(CannotUnify, match=r"^input 0 is absent$"):
        site(None).axes(0)


# -- the registry -------------------------------------------------------------------------------------------


def test_an_op_cannot_have_two_rules():
    with pytest.raises(ValueError, match=r"^op Relu has two rules$"):
        line("Relu", "*s -> *s")


def test_a_function_cannot_take_an_op_that_has_a_rule():
    def other(site):
        """Nothing is equal."""

    with pytest.raises(ValueError, match=r"^op Concat has two rules$"):
        rule("Concat")(other)


def test_a_line_is_read_when_it_is_registered():
    with pytest.raises(ValueError, match="expected exactly one '->'"):
        line("Nonsense", "a b")


def test_every_rule_is_said_in_one_line():
    assert not [entry.op for entry in RULES.values() if not entry.text or "\n" in entry.text]
    assert {entry.family for entry in RULES.values()} == {
        "line",
        "function",
        "elementwise",
        "reduction",
        "mixing",
        "control",
    }
