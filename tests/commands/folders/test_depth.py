"""Whole branches in folders: all files of one network lose the same ones, also in bodies."""

from __future__ import annotations

import json
import re
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.folders.follow import Became, Lead
from onnxprune.commands.folders.follow_branches import Counterparts, Owned, check_lost
from onnxprune.commands.folders.held import Held
from onnxprune.dependency.branches import branches_of_graphs
from onnxprune.dependency.trace import trace
from onnxprune.errors import InputError, NothingToPrune, OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.shapes.probe import settled
from tests.support.build import array, model
from tests.support.schema import follows_the_schema

WIDTH = 8
ROWS = np.random.default_rng(0).standard_normal((128, WIDTH)).astype(np.float32)
BLOCKS = 3
STAYS = "another file or body of the same network cannot lose it, or is not proven to lose the same"


def weights(prefix="", seed="", *, alike=()):
    """Return the weights of blocks; files of one network have the same numbers under other names."""
    names = ["first", "last", *(f"{kind}{number}" for number in range(BLOCKS) for kind in ("up", "down"))]
    source = {f"up{number}": "up0" for number in alike} | {f"down{number}": "down0" for number in alike}
    return {prefix + name: array(seed + source.get(name, name), (WIDTH, WIDTH)) / 2 for name in names}


def layers(prefix="", names="", *, last=True, start="x"):
    """Return the nodes of a residual network; values have a prefix, weights another one."""
    lines = [f"{prefix}s0 = MatMul({start}, {names}first)"]
    for number in range(BLOCKS):
        lines += [
            f"{prefix}h{number} = MatMul({prefix}s{number}, {names}up{number})",
            f"{prefix}r{number} = Relu({prefix}h{number})",
            f"{prefix}o{number} = MatMul({prefix}r{number}, {names}down{number})",
            f"{prefix}s{number + 1} = Add({prefix}s{number}, {prefix}o{number})",
        ]
    return (
        [*lines, f"{prefix or 'y'}{'t' if prefix else ''} = MatMul({prefix}s{BLOCKS}, {names}last)"] if last else lines
    )


def plain(prefix="", *more, y="float[] y", **options):
    own = weights(prefix, **options)
    return model(*layers(names=prefix), *more, x=f"float[n,{WIDTH}] x", y=y, **own)


def merged(prefix="m_", then=None, **options):
    """Return a file that has the network in both branches of an If, and no layer elsewhere."""
    bodies = [" ".join(layers(own, prefix)) for own in ("a", "b")] if then is None else then
    text = f"<then_branch = one () => (at) {{ {bodies[0]} }}, else_branch = two () => (bt) {{ {bodies[1]} }}>"
    given = {"x": f"float[n,{WIDTH}] x, bool[1] c", "y": f"float[n,{WIDTH}] y"}
    return model(f"y = If{text}(c)", infer=False, **given, **weights(prefix, **options))


@pytest.fixture
def folder(write_folder):
    return partial(write_folder, {"hidden_size": WIDTH})


def pruned(source, data=None, **options):
    data = {"x": ROWS} if data is None else data
    return onnxprune.prune_folder(source, source.parent / "out", data=data, latency=False, **options)


def refuses(source, name):
    """Assert that a branch stays, and that nothing is written."""
    with pytest.raises(OptionError, match=f"branch '{name}' cannot go: {STAYS}"):
        pruned(source, without=name)
    assert not (source.parent / "out").exists()


def removed(result):
    """Return the names of the branches that went, by file."""
    each = {file.name: file.report for file in result.files if file.report is not None}
    return {
        name: [branch["name"] for branch in report["depth"]["branches"] if branch["removed"]]
        for name, report in each.items()
    }


def of_file(folder, name, **more):
    return ort.InferenceSession(folder / "out" / f"{name}.onnx").run(None, {"x": ROWS, **more})[0]


def weights_of(path):
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("options", [{}, {"ratio": 0.3}, {"shape": {"neurons": 5}}], ids=["alone", "ratio", "shape"])
def test_all_files_of_a_network_lose_the_same_branches(folder, options):
    source = folder(plain=plain(), other=plain("o_", "z = Mul(y, y)", y="float[] y, float[] z"), merged=merged())
    result = pruned(source, depth=0.34, **options)
    went = removed(result)
    (one,) = went["other.onnx"]
    assert went["plain.onnx"] == [one]
    assert sorted(name[1:] for name in went["merged.onnx"]) == [one, one]  # in both bodies
    for file in result.files:
        follows_the_schema(json.loads(json.dumps(file.report)))
        assert file.report["verification"]["passed"]
        assert file.report["output"]["macs"] < file.report["input"]["macs"]
    expected = of_file(source.parent, "plain")
    for condition in (True, False):
        got = of_file(source.parent, "merged", c=np.array([condition]))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_file(source.parent, "other"), expected, rtol=1e-5, atol=1e-5)
    before, after = (weights_of(each / "plain.onnx") for each in (source, source.parent / "out"))
    assert f"up{one[1:]}" not in after
    assert all(before[name].shape == after[name].shape for name in after) == (not options)
    assert any(not np.array_equal(before[name], after[name]) for name in after)  # refitted, in all files


def test_a_branch_that_one_file_needs_stays_in_all(folder):
    source = folder(plain=plain(), zother=plain("o_", y="float[] y, float[] h1"))
    result = pruned(source, depth=0.9)
    assert all("o1" not in went and went for went in removed(result).values())
    lead = next(file.report for file in result.files if file.leads)
    reasons = {branch["name"]: branch["locked"] for branch in lead["depth"]["branches"]}
    assert reasons == {"o0": None, "o1": STAYS, "o2": None}
    with pytest.raises(OptionError) as error:
        pruned(source, without="o1", force=True)
    assert f"branch 'o1' cannot go: {STAYS}; do not name it" in str(error.value)


def test_a_layer_that_one_file_has_beside_no_sum_stays(folder):
    """The other file multiplies what the first one adds: it has the weights, and no branch."""
    lines = [line.replace("s2 = Add(s1, o1)", "s2 = Mul(s1, o1)") for line in layers(names="o_")]
    other = model(*lines, x=f"float[n,{WIDTH}] x", **weights("o_"))
    source = folder(plain=plain(), zother=other)
    refuses(source, "o1")
    assert removed(pruned(source, without=["o0", "o2"])) == {"plain.onnx": ["o0", "o2"], "zother.onnx": ["o0", "o2"]}


def test_a_file_without_the_layers_of_a_branch_takes_the_new_numbers(folder):
    """A file of the last layer alone has nothing to lose, and follows what it was refitted to."""
    tail = model("y = MatMul(x, o_last)", x=f"float[n,{WIDTH}] x", o_last=weights()["last"])
    source = folder(plain=plain(), tail=tail)
    result = pruned(source, without="o2")
    assert removed(result) == {"plain.onnx": ["o2"], "tail.onnx": []}
    out = source.parent / "out"
    last = weights_of(out / "plain.onnx")["last"]
    np.testing.assert_array_equal(weights_of(out / "tail.onnx")["o_last"], last)
    assert not np.array_equal(last, weights()["last"])


def test_branches_in_bodies_have_the_names_of_their_layers():
    found = branches_of_graphs(trace(settled(load(merged()))))
    assert [[branch.name for branch in each] for _, each in found] == [[], ["ao0", "ao1", "ao2"], ["bo0", "bo1", "bo2"]]
    assert {branch.macs for _, each in found for branch in each} == {2 * WIDTH * WIDTH}


# -- several networks --------------------------------------------------------------------------------------


def two(folder):
    """Return a folder of two networks, and samples of each."""
    source = folder(decoder=plain("d_"), encoder=plain("e_", seed="e"))
    samples = source.parent / "samples"
    samples.mkdir()
    for name in ("decoder", "encoder"):
        np.savez(samples / f"{name}.npz", x=ROWS)
    return source, str(samples)


def test_each_network_loses_a_share_of_its_own(folder):
    source, samples = two(folder)
    went = removed(pruned(source, samples, depth=0.34))
    assert [len(each) for each in went.values()] == [1, 1]


def test_a_glob_means_branches_of_the_networks_that_have_some(folder):
    source, samples = two(folder)
    result = pruned(source, samples, without="e_*1")
    assert removed(result) == {"encoder.onnx": ["o1"]}
    why = {file.name: file.why for file in result.files}
    assert why["decoder.onnx"] == "nothing to remove: the branches that are named are of another network"
    both = pruned(source, samples, without=["e_*1", "d_*2"], force=True)
    assert removed(both) == {"encoder.onnx": ["o1"], "decoder.onnx": ["o2"]}
    widths = pruned(source, samples, without="e_*1", ratio=0.3, force=True)
    assert {file.name: file.why for file in widths.files} == {"encoder.onnx": None, "decoder.onnx": None}


def test_a_glob_that_means_a_branch_of_no_network_is_told(folder):
    source, samples = two(folder)
    with pytest.raises(OptionError) as error:
        pruned(source, samples, without=["e_*1", "nix"])
    assert str(error.value) == (
        "decoder.onnx: without 'nix': no branch has this name, or layers of such names alone; branches are 'o0', 'o1', "
        "'o2'; nor in the other networks of the folder"
    )


def test_linear_maps_go_with_one_file_for_each_network(folder):
    source = folder(plain=plain(), other=plain("o_"))
    with pytest.raises(OptionError, match="linearize goes with one file for each network"):
        pruned(source, linearize="o1")


def test_a_folder_without_branches_is_not_written(folder):
    source = folder(net=model("y = MatMul(x, w)", x=f"float[n,{WIDTH}] x", w=(WIDTH, 5)))
    with pytest.raises(NothingToPrune, match="no value in the main graph is computed from another one of its shape"):
        pruned(source, depth=0.5)
    assert not (source.parent / "out").exists()


# -- what weights do not tell for sure ---------------------------------------------------------------------


def with_lines(change, prefix="o_", own=None):
    """Return the network with each line changed."""
    lines = [new for line in layers(names=prefix) for new in change(line)]
    return model(*lines, x=f"float[n,{WIDTH}] x", y="float[] y", **(weights(prefix) if own is None else own))


def renamed(line, **names):
    for old, new in names.items():
        line = line.replace(old, new)
    return line


@pytest.mark.parametrize("stored", ["once", "twice"])
def test_layers_that_share_their_weights_stay(folder, stored):
    """Which of them is which is not told by their weights, stored once for both or in copies."""

    def shared(prefix):
        own = weights(prefix, alike=(1,))
        if stored == "twice":
            return with_lines(lambda line: [line], prefix, own)
        left = {name: array for name, array in own.items() if name[-1] != "1"}
        once = {f"{prefix}{kind}1": f"{prefix}{kind}0" for kind in ("up", "down")}
        return with_lines(lambda line: [renamed(line, **once)], prefix, left)

    source = folder(plain=shared(""), zother=shared("o_"))
    refuses(source, "o0")
    refuses(source, "o1")
    assert removed(pruned(source, {"x": ROWS}, without="o2", reconstruct=False)) == {
        "plain.onnx": ["o2"],
        "zother.onnx": ["o2"],
    }


COPIED = "another file of the same network has copies of its weights, and nothing tells which is which"


def copied(prefix, of=2):
    """Return the network with a layer that holds the numbers of block 1 once more."""
    own = weights(prefix)
    return with_lines(
        lambda line: [line], prefix, own | {f"{prefix}{kind}{of}": own[f"{prefix}{kind}1"] for kind in ("up", "down")}
    )


def fits(result, name):
    (report,) = [file.report for file in result.files if file.name == name]
    return {fit["node"]: fit["why_not"] for fit in report["reconstruction"]}


@pytest.mark.parametrize("options", [{"without": "o0"}, {"ratio": 0.3}], ids=["depth", "widths"])
def test_copies_that_nothing_tells_apart_are_left_out_of_refits(folder, options):
    source = folder(plain=copied(""), zother=copied("o_"))
    result = pruned(source, **options)
    np.testing.assert_allclose(of_file(source.parent, "zother"), of_file(source.parent, "plain"), rtol=1e-5, atol=1e-5)
    refitted = fits(result, "plain.onnx")
    assert {node for node, why in refitted.items() if why == COPIED} == {"h1", "o1", "h2", "o2"}
    assert None in {why for node, why in refitted.items() if node in ("s0", "y")}
    assert result.settings[-1] == f"plain.onnx: 4 layers are not refitted, such as 'h1': {COPIED}"
    lead = next(file.report for file in result.files if file.leads)
    assert sorted(lead["options"]["copies"]) == ["down1", "down2", "up1", "up2"]
    assert {"up1", "up2"}.isdisjoint(group["name"] for group in lead["groups"] if group["kept"] < group["units"])
    before, after = (weights_of(each / "plain.onnx") for each in (source, source.parent / "out"))
    assert np.isin(after["up1"], before["up1"]).all()
    assert after["up1"].shape[1] == WIDTH  # what made units of this layer is not told apart; the stream is
    assert not np.isin(after["last"], before["last"]).all()
    for file in result.files:
        follows_the_schema(json.loads(json.dumps(file.report)))


def test_units_that_copies_alone_make_stay(folder):
    """One of two copies would lose units, and the other file would not know which."""
    source = folder(plain=copied(""), zother=copied("o_"))
    result = pruned(source, ratio=0.3, only=["up0", "up1"], reconstruct=False)
    np.testing.assert_array_equal(of_file(source.parent, "zother"), of_file(source.parent, "plain"))
    lead = next(file.report for file in result.files if file.leads)
    assert [group["name"] for group in lead["groups"] if group["kept"] < group["units"]] == ["up0"]


@pytest.mark.parametrize("options", [{"without": "o0"}, {"ratio": 0.3}], ids=["depth", "widths"])
def test_copies_of_the_same_name_are_refitted(folder, options):
    source = folder(plain=copied(""), zother=copied(""))
    result = pruned(source, **options)
    assert COPIED not in fits(result, "plain.onnx").values()
    one, other = (weights_of(source.parent / "out" / f"{name}.onnx") for name in ("plain", "zother"))
    assert not np.array_equal(one["up1"], one["up2"])
    for name, array_of_one in one.items():
        np.testing.assert_array_equal(array_of_one, other[name])


def test_a_name_does_not_tell_where_one_weight_is_read_for_several(folder):
    own = {name: each for name, each in weights("").items() if name not in ("up2", "down2")}
    once = with_lines(lambda line: [renamed(line, up2="up1", down2="down1")], "", own)
    source = folder(plain=copied(""), zother=once)
    result = pruned(source, without="o0")
    assert {node for node, why in fits(result, "plain.onnx").items() if why == COPIED} == {"h1", "o1", "h2", "o2"}
    np.testing.assert_allclose(of_file(source.parent, "zother"), of_file(source.parent, "plain"), rtol=1e-5, atol=1e-5)


def test_a_bias_that_others_copy_stays_and_its_weight_is_refitted(folder):
    def biased(prefix):
        zeros = {f"{prefix}b{at}": np.zeros(WIDTH, np.float32) for at in range(BLOCKS)}
        return with_lines(
            lambda line: (
                [line.replace("h", "g", 1), f"h{line[1]} = Add(g{line[1]}, {prefix}b{line[1]})"]
                if line[0] == "h"
                else [line]
            ),
            prefix,
            weights(prefix) | zeros,
        )

    source = folder(plain=biased(""), zother=biased("o_"))
    result = pruned(source, ratio=0.3)
    assert COPIED not in fits(result, "plain.onnx").values()
    after = weights_of(source.parent / "out" / "plain.onnx")
    assert not any(after[f"b{at}"].any() for at in range(BLOCKS))
    np.testing.assert_allclose(of_file(source.parent, "zother"), of_file(source.parent, "plain"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"without": "o0"}, {"ratio": 0.3}, {"without": "o0", "ratio": 0.3}])
@pytest.mark.parametrize("is_same", [True, False])
def test_a_name_does_not_tell_where_it_is_that_of_another_layer(folder, options, is_same):
    """Exporters number what has no name: biases that are zeros may have each other's names in the other file."""

    def biased(prefix, turned):
        zeros = {f"add_{at}": np.zeros(WIDTH, np.float32) for at in range(BLOCKS)}

        def change(line):
            at = line[1]
            bias = f"add_{(int(at) + turned) % BLOCKS}" if line[0] == "o" else ""
            return [line.replace("o", "g", 1), f"o{at} = Add(g{at}, {bias})"] if bias else [line]

        return with_lines(change, prefix, weights(prefix) | zeros)

    source = folder(plain=biased("", 0), zother=biased("o_", 0 if is_same else 1))
    pruned(source, **options)
    np.testing.assert_allclose(of_file(source.parent, "zother"), of_file(source.parent, "plain"), rtol=1e-5, atol=1e-5)
    after = weights_of(source.parent / "out" / "plain.onnx")
    assert any(after[f"add_{at}"].any() for at in (1, 2)) == is_same


def test_names_do_not_tell_copies_that_are_read_in_another_order(folder):
    own = weights("")
    own |= {f"{kind}2": own[f"{kind}1"] for kind in ("up", "down")}
    turned = {"up1": "up2", "up2": "up1", "down1": "down2", "down2": "down1"}
    other = with_lines(lambda line: [re.sub(r"(up|down)[12]", lambda name: turned[name[0]], line)], "", own)
    source = folder(plain=copied(""), zother=other)
    result = pruned(source, ratio=0.3)
    assert {node for node, why in fits(result, "plain.onnx").items() if why == COPIED} == {"h1", "o1", "h2", "o2"}
    np.testing.assert_allclose(of_file(source.parent, "zother"), of_file(source.parent, "plain"), rtol=1e-5, atol=1e-5)


def test_copies_that_something_else_makes_different_are_told():
    one, other = np.zeros(2), np.ones(2)
    became = {b"same": [Became("up1", {}, one), Became("up2", {}, other), Became("up3", {0: (1,)}, one[1:])]}
    lead = Lead(became, Held(load(plain())))
    assert lead.content("up2", b"same", {}, True) is other
    assert lead.content("o_up", b"same", {0: (1,)}, False) is became[b"same"][2].content
    assert lead.content("o_up", b"same", {0: (0,)}, False) is None
    assert lead.kept("up3", b"same", 0, True) == {(1,)}
    assert lead.kept("up3", b"same", 0, False) == {None, (1,)}
    for name, is_told in (("o_up1", True), ("up1", False)):
        with pytest.raises(InputError) as error:
            lead.content(name, b"same", {}, is_told)
        assert str(error.value) == (
            f"weight {name!r} holds what 'up1' and 'up2' held in the file that leads, which became different ones; "
            "prune without what changes them (--method laco, --tune, --masks), or the files one by one"
        )


def test_weights_that_nothing_reads_do_not_tell_what_was_cut(folder):
    lead = plain()
    lead.graph.initializer.extend(numpy_helper.from_array(each, f"{name}_unread") for name, each in weights().items())
    source = folder(plain=lead, zother=plain("o_"))
    pruned(source, depth=0.34, ratio=0.3)
    np.testing.assert_allclose(of_file(source.parent, "zother"), of_file(source.parent, "plain"), rtol=1e-5, atol=1e-5)


def test_a_layer_that_one_file_has_in_another_form_stays(folder, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BLOCKS", 12)  # so that both hold nearly the same weights

    def turned(line):
        """Return lines in which the weights of one block are read through a Transpose."""
        turns = [f"t{kind} = Transpose<perm = [1, 0]>(o_{kind}5)" for kind in ("up", "down") if f"o_{kind}5" in line]
        return [*turns, renamed(line, o_up5="tup", o_down5="tdown")]

    own = {name: each.T.copy() if name[-1] == "5" else each for name, each in weights("o_").items()}
    source = folder(plain=plain(), zother=with_lines(turned, own=own))
    refuses(source, "o5")
    assert removed(pruned(source, without="o2")) == {"plain.onnx": ["o2"], "zother.onnx": ["o2"]}


def test_a_branch_with_more_in_another_file_stays(folder):
    more = {"o1 = MatMul(r1, o_down1)": ["q1 = Mul(r1, o_scale)", "o1 = MatMul(q1, o_down1)"]}
    leading = {"y = MatMul(s3, last)": ["e = MatMul(s3, extra)", "y = MatMul(e, last)"]}
    lead = with_lines(
        lambda line: leading.get(line, [line]), "", {**weights(), "extra": array("extra", (WIDTH, WIDTH))}
    )
    own = {**weights("o_"), "o_scale": array("scale", (WIDTH,))}
    refuses(folder(plain=lead, zother=with_lines(lambda line: more.get(line, [line]), own=own)), "o1")


@pytest.mark.parametrize("total", ["Add", "Mul"])
def test_a_layer_that_one_body_has_in_another_form_stays(folder, total):
    turns = "u = Transpose<perm = [1, 0]>(m_up3) d = Transpose<perm = [1, 0]>(m_down3) "
    one, other = (" ".join(layers(own, "m_")) for own in ("a", "b"))
    one = renamed(one, m_up1="u", m_down1="d").replace("as2 = Add", f"as2 = {total}")
    made = merged(then=[turns + one, other])
    for name in ("up", "down"):
        turned = np.ascontiguousarray(weights()[f"{name}1"].T)
        made.graph.initializer.append(numpy_helper.from_array(turned, f"m_{name}3"))
    source = folder(plain=plain(), merged=made)
    refuses(source, "o1")
    assert removed(pruned(source, without="o2")) == {"plain.onnx": ["o2"], "merged.onnx": ["ao2", "bo2"]}


def pairs(prefix, *, hides=False, apart=False):
    """Return a network with two branches in each block, side by side.

    Those of the second block: `hides` makes them one; `apart` adds the first, and multiplies with the other.
    """
    lines, own = [f"s0 = MatMul(x, {prefix}first)"], {prefix + "first": array("first", (WIDTH, WIDTH))}
    for block in range(BLOCKS):
        for kind in (f"a{block}", f"f{block}"):
            own |= {f"{prefix}{side}{kind}": array(side + kind, (WIDTH, WIDTH)) / 2 for side in ("up", "down")}
            lines += [
                f"h{kind} = MatMul(s{block}, {prefix}up{kind})",
                f"r{kind} = Relu(h{kind})",
                f"o{kind} = MatMul(r{kind}, {prefix}down{kind})",
            ]
        lines += [f"t{block} = Add(oa{block}, of{block})"]
        if apart and block == 1:
            lines[-1:] = [f"u{block} = Add(s{block}, oa{block})", f"s{block + 1} = Mul(u{block}, of{block})"]
            continue
        hidden = hides and block == 1
        lines += [f"v{block} = Cast<to = 1>(t{block})"] * hidden
        lines += [f"s{block + 1} = Add(s{block}, {'v' if hidden else 't'}{block})"]
    return model(*lines, f"y = Neg(s{BLOCKS})", x=f"float[n,{WIDTH}] x", y="float[] y", **own)


def test_a_branch_stays_that_another_file_has_together_with_another_one(folder):
    source = folder(plain=pairs(""), zother=pairs("o_", hides=True))
    refuses(source, "oa1")
    refuses(source, "of1")


@pytest.mark.parametrize(
    ("inputs", "before", "condition"),
    [
        ("bool[1] c, bool[1] c2", ["k = Not(c2)", "m = And(c, k)"], "m"),  # proofs feed both alike
        ("bool[1] use_cache_branch", [], "use_cache_branch"),  # proofs feed it as the caches are, and there are none
    ],
    ids=["computed", "asks for the past"],
)
def test_a_branch_of_a_body_that_proofs_may_not_run_stays(folder, inputs, before, condition):
    bodies = [" ".join(layers(own, "m_")) for own in ("a", "b")]
    text = f"<then_branch = one () => (at) {{ {bodies[0]} }}, else_branch = two () => (bt) {{ {bodies[1]} }}>"
    given = {"x": f"float[n,{WIDTH}] x, {inputs}", "y": f"float[n,{WIDTH}] y"}
    made = model(*before, f"y = If{text}({condition})", infer=False, **given, **weights("m_"))
    refuses(folder(plain=plain(), merged=made), "o1")


def test_a_branch_stays_of_which_another_file_has_some_beside(folder):
    """Of the two addends that go together in the file that leads, the other one multiplies one."""
    source = folder(plain=pairs("", hides=True), zother=pairs("o_", apart=True))
    refuses(source, "of1")


def test_the_weights_that_are_left_tell_whether_files_lost_the_same():
    one, two = (Owned(name, frozenset({name.encode()}), frozenset()) for name in ("o1", "o2"))
    before = {b"o1", b"o2", b"else"}
    check_lost([one, two], ["o1"], before, {b"o2", b"else"})
    for after, name in (({b"o1", b"o2"}, "o1"), ({b"else"}, "o2")):
        with pytest.raises(InputError) as error:
            check_lost([one, two], ["o1"], before, after)
        assert str(error.value) == (
            f"what goes with branch '{name}' of the file that leads cannot go here alone; prune the files one by one"
        )
    with pytest.raises(InputError, match="what goes with branch 'o1' of the file that leads cannot go here alone"):
        Counterparts({}, frozenset({"o1"})).of(["o1"])


# -- files with their layers in bodies ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"depth": 0.34}, {"depth": 0.34, "ratio": 0.3}], ids=["alone", "ratio"])
def test_branches_are_not_chosen_in_bodies(folder, options):
    """Which body samples run, and which of two, is not told by the file."""
    source = folder(merged=merged(), other=merged("n_"))
    data = [{"x": ROWS[at : at + 16], "c": np.array([False])} for at in range(0, 128, 16)]
    with pytest.raises(NothingToPrune) as error:
        pruned(source, data, **options)
    assert (
        "nothing to remove: its layers lie in the bodies of an If, and branches are chosen in the main graph; prune it "
        "in a folder with a file of the same network that has them there"
    ) in str(error.value)
    assert not (source.parent / "out").exists()
