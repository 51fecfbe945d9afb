"""Whole branches in folders: all files of one network lose the same ones, also in bodies."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.follow import Held
from onnxprune.commands.follow_branches import counterparts, owned
from onnxprune.dependency.branches import branches_of_graphs
from onnxprune.dependency.trace import trace
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.graph.probe import settled
from onnxprune.graph.read import load
from tests.support.build import array, model
from tests.support.schema import follows_the_schema

WIDTH = 8
ROWS = np.random.default_rng(0).standard_normal((128, WIDTH)).astype(np.float32)
BLOCKS = 3


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
def folder(tmp_path):
    def write(**models):
        made = tmp_path / "model"
        made.mkdir()
        (made / "config.json").write_text(json.dumps({"hidden_size": WIDTH}))
        for name, proto in models.items():
            onnx.save(proto, made / f"{name}.onnx")
        return made

    return write


def pruned(source, data=None, **options):
    data = {"x": ROWS} if data is None else data
    return onnxprune.prune_folder(source, source.parent / "out", data=data, latency=False, **options)


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
    assert reasons == {"o0": None, "o1": "another file of the same network cannot lose it", "o2": None}
    with pytest.raises(OptionError) as error:
        pruned(source, without="o1", force=True)
    assert "branch 'o1' cannot go: another file of the same network cannot lose it; do not name it" in str(error.value)


def test_a_layer_that_one_file_has_beside_no_sum_stays(folder):
    """The other file multiplies what the first one adds: it has the weights, and no branch."""
    lines = [line.replace("s2 = Add(s1, o1)", "s2 = Mul(s1, o1)") for line in layers(names="o_")]
    other = model(*lines, x=f"float[n,{WIDTH}] x", **weights("o_"))
    source = folder(plain=plain(), zother=other)
    assert removed(pruned(source, without=["o0", "o2"])) == {"plain.onnx": ["o0", "o2"], "zother.onnx": ["o0", "o2"]}
    with pytest.raises(OptionError, match="branch 'o1' cannot go: another file of the same network cannot lose it"):
        pruned(source, without="o1", force=True)


def test_layers_that_share_their_weights_are_told_by_their_order():
    lead, other = (Held(load(plain(prefix, alike=(1, 2)))) for prefix in ("", "o_"))
    traces = [trace(settled(each.model)) for each in (lead, other)]
    same = counterparts(owned(traces[0], lead.telling), traces[1], other.telling)
    assert {name: [each.name for each in found] for name, found in same.same.items()} == {
        f"o{number}": [f"o{number}"] for number in range(BLOCKS)
    }
    assert not same.stay


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


# -- files with their layers in bodies ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"ratio": 0.3}], ids=["alone", "ratio"])
def test_a_file_with_all_layers_in_bodies_is_led_by_what_it_runs(folder, options):
    source = folder(merged=merged())
    data = [{"x": ROWS[at : at + 16], "c": np.array([False])} for at in range(0, 128, 16)]
    result = pruned(source, data, depth=0.34, **options)
    (file,) = result.files
    follows_the_schema(json.loads(json.dumps(file.report)))
    assert file.leads
    assert file.report["verification"]["passed"]
    assert file.report["calibration"]["samples"] == 96
    assert file.report["reconstruction"]
    went = removed(result)["merged.onnx"]
    assert {name[0] for name in went} == {"a", "b"}
    assert len({name[1:] for name in went}) == 1
    one, other = (of_file(source.parent, "merged", c=np.array([condition])) for condition in (True, False))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in (source.parent / "out").iterdir()) == ["config.json", "merged.onnx"]


def test_branches_in_bodies_are_named_by_their_layers(folder):
    source = folder(merged=merged())
    data = [{"x": ROWS[at : at + 16], "c": np.array([False])} for at in range(0, 128, 16)]
    assert removed(pruned(source, data, without="m_*1")) == {"merged.onnx": ["ao1", "bo1"]}
    with pytest.raises(OptionError, match="without 'nix': no branch has this name, or layers of such names alone"):
        pruned(source, data, without="nix", force=True)


def test_no_linear_map_stands_in_for_a_branch_in_a_body(folder):
    source = folder(merged=merged())
    with pytest.raises(OptionError, match="linearize 'm_\\*1': no branch has this name"):
        pruned(source, [{"x": ROWS, "c": np.array([False])}], linearize="m_*1")
