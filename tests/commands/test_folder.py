"""Folders: a model or several, what lies beside them, and settings that follow."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.commands.beside.settings import CacheSizes, adjusted
from onnxprune.commands.folder import prune_files
from onnxprune.errors import InputError, NothingToPrune, OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.forms import tied
from onnxprune.planning.options import make_options
from onnxprune.progress import silent
from tests.support.build import array, model
from tests.support.cli import invoke
from tests.support.decoder import decoder
from tests.support.fake_board import ALONE, quiet

pytestmark = pytest.mark.generated

ROWS = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)
NAMES = ("up", "shift", "down")  # of the weights of the first file; those of others have other names
SEVERAL = "float[n,s,v] logits, float[n,2,q,4] present_key, float[n,2,q,4] present_value, float[n,s,v] more"
SHAPES = ((6, 32), (32,), (32, 5))


def mlp(prefix="", *, turned=False, end=()):
    """Two products with 32 neurons between them; files of one network have the same numbers under other names."""
    up, shift, down = (prefix + name for name in NAMES)
    weights = {prefix + name: array(name, shape) for name, shape in zip(NAMES, SHAPES, strict=True)}
    last = "h" if end else "y"
    nodes = [f"a = MatMul(x, {up})", f"b = Add({shift}, a)" if turned else f"b = Add(a, {shift})", "c = Relu(b)"]
    return model(*nodes, f"{last} = MatMul(c, {down})", *end, x="float[n,6] x", **weights)


@pytest.fixture
def folder(tmp_path):
    """Write models into a folder with a tokenizer, settings and what is hidden."""

    def write(**models):
        made = tmp_path / "model"
        (made / "sub").mkdir(parents=True)
        (made / "tokenizer.json").write_text("{}")
        (made / "sub" / "words.txt").write_text("one two")
        (made / ".cache").mkdir()
        (made / ".cache" / "x").write_text("x")
        (made / "config.json").write_text(json.dumps({"intermediate_size": 32, "hidden_size": 6}, indent=4))
        for name, proto in models.items():
            onnx.save(proto, made / f"{name}.onnx")
        return made

    return write


def pruned(source, data=ROWS, **options):
    target = source.parent / "out"
    checked = make_options(**{"ratio": 0.5, "latency": False, **options})
    return prune_files(source, target, checked, data, progress=silent)


def weights_of(path):
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- what is written ---------------------------------------------------------------------------------------


def test_a_folder_is_copied_with_its_model_pruned(folder):
    source = folder(model=mlp())
    result = pruned(source)
    out = source.parent / "out"
    assert files_in(out) == ["config.json", "model.onnx", "sub/words.txt", "tokenizer.json"]
    assert weights_of(out / "model.onnx")["up"].shape == (6, 16)
    assert json.loads((out / "config.json").read_text()) == {"intermediate_size": 16, "hidden_size": 6}
    assert (out / "config.json").read_text().splitlines()[1].startswith("    ")
    (only,) = result.files
    assert only.report["output"]["path"] == str(out / "model.onnx")
    assert only.report["verification"]["passed"]
    assert result.settings == ("config.json: intermediate_size 32 became 16",)
    assert sorted(path.name for path in source.parent.iterdir()) == ["model", "out"]


def test_weights_beside_a_model_move_with_the_folder(folder, tmp_path):
    source = folder()
    wide = model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", x="float[n,6] x", w=(6, 256), v=(256, 5))
    onnx.save(wide, source / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    pruned(source)
    moved = (source.parent / "out").rename(tmp_path / "elsewhere")
    assert [name for name in files_in(moved) if "model.onnx" in name] == ["model.onnx", "model.onnx.data"]
    session = ort.InferenceSession(moved / "model.onnx")
    assert session.run(None, {"x": ROWS})[0].shape == (64, 5)


def test_files_of_one_network_are_cut_alike(folder):
    doubled = "y = Add(h, h)"
    source = folder(first=mlp(), later=mlp("other_", turned=True, end=(doubled,)), apart=mlp())
    # A network of its own, with other numbers.
    proto = mlp()
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1] * 2, tensor.name))
    onnx.save(proto, source / "apart.onnx")
    data = source.parent / "data"
    data.mkdir()
    for name in ("first", "apart"):
        np.savez(data / f"{name}.npz", x=ROWS)
    result = pruned(source, str(data))
    first, later, apart = (weights_of(source.parent / "out" / f"{name}.onnx") for name in ("first", "later", "apart"))
    for name in NAMES:
        np.testing.assert_array_equal(first[name], later[f"other_{name}"])  # numbers that were refitted, too
    assert not np.array_equal(first["down"], mlp_weight("down")[: len(first["down"])])
    assert not np.array_equal(first["up"], apart["up"])
    assert [(each.name, each.leads) for each in result.files] == [
        ("apart.onnx", True), ("first.onnx", True), ("later.onnx", False)
    ]  # fmt: skip
    assert all(each.report["verification"]["passed"] for each in result.files)
    outputs = [
        ort.InferenceSession(source.parent / "out" / f"{name}.onnx").run(None, {"x": ROWS})[0]
        for name in ("first", "later")
    ]
    np.testing.assert_allclose(2 * outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


def test_weights_that_held_the_same_become_what_those_of_their_name_became(folder):
    """Two layers of one width have biases of zeros, which are refitted to different numbers."""
    nodes = ("a = MatMul(x, p)", "b = Relu(a)", "c = MatMul(b, q)", "d = Add(c, s)", "e = Relu(d)", "g = MatMul(e, r)",
             "y = Add(g, t)")  # fmt: skip
    zeros = np.zeros(6, np.float32)
    weights = {"p": (6, 32), "q": (32, 6), "r": (6, 6), "s": zeros, "t": zeros}
    one, other = (model(*nodes, x="float[n,6] x", **weights) for _ in range(2))
    other.graph.node[-1].output[0] = "z"
    other.graph.node.append(onnx.helper.make_node("Neg", ["z"], ["y"]))
    source = folder(one=one, other=other)
    pruned(source)
    first, later = (weights_of(source.parent / "out" / f"{name}.onnx") for name in ("one", "other"))
    assert not np.array_equal(first["s"], first["t"])
    for name, weight in first.items():
        np.testing.assert_array_equal(weight, later[name])


def test_a_weight_that_is_stored_once_for_each_use_is_followed(folder):
    """Exporters store equal biases once; two layers of one width lose different units of it."""
    nodes = ("a = MatMul(x, p)", "b = Add(a, s)", "c = Relu(b)", "d = MatMul(c, q)", "e = MatMul(d, r)",
             "f = Add(e, s)", "g = Relu(f)", "y = MatMul(g, t)")  # fmt: skip
    weights = {"p": (6, 32), "q": (32, 8), "r": (8, 32), "t": (32, 5), "s": np.zeros(32, np.float32)}
    one, other = (model(*nodes, x="float[n,6] x", **weights) for _ in range(2))
    other.graph.node[-1].output[0] = "z"
    other.graph.node.append(onnx.helper.make_node("Neg", ["z"], ["y"]))
    for tensor in other.graph.initializer:
        new = f"of_{tensor.name}"
        for node in other.graph.node:
            node.input[:] = [new if name == tensor.name else name for name in node.input]
        tensor.name = new
    source = folder(one=one, other=other)
    pruned(source)
    outputs = [
        ort.InferenceSession(source.parent / "out" / f"{name}.onnx").run(None, {"x": ROWS})[0]
        for name in ("one", "other")
    ]
    np.testing.assert_allclose(outputs[0], -outputs[1], rtol=1e-5, atol=1e-5)


def mlp_weight(name):
    return array(name, dict(zip(NAMES, SHAPES, strict=True))[name])


def test_what_one_file_cannot_lose_stays_in_all(folder):
    more = ("g = MatMul(d, k)", "e = Relu(g)", "y = MatMul(e, q)")
    free = model("a = MatMul(x, up)", "c = Relu(a)", "d = MatMul(c, down)", *more, x="float[n,6] x", **two())
    seen = model(
        "a = MatMul(x, up)", "c = Relu(a)", "d = MatMul(c, down)", *more, x="float[n,6] x",
        y="float[n,5] y, float[n,32] c", **two(),
    )  # fmt: skip
    source = folder(free=free, seen=seen)
    pruned(source)
    for name in ("free", "seen"):
        weights = weights_of(source.parent / "out" / f"{name}.onnx")
        assert weights["up"].shape == (6, 32)  # the second file gives these units out
        assert weights["k"].size < 8 * 24


def test_a_weight_of_which_one_axis_stays_is_cut_along_the_other(folder):
    """The second file gives out what `down` makes: its inputs can go all the same."""
    shown = model(
        "a = MatMul(x, up)", "c = Relu(a)", "d = MatMul(c, down)", "y = Neg(d)", x="float[n,6] x",
        y="float[n,5] y, float[n,8] d", **{name: two()[name] for name in ("up", "down")},
    )  # fmt: skip
    hidden = model(
        "a = MatMul(x, up)", "c = Relu(a)", "d = MatMul(c, down)", "e = Relu(d)", "y = MatMul(e, r)", x="float[n,6] x",
        r=(8, 2), **{name: two()[name] for name in ("up", "down")},
    )  # fmt: skip
    source = folder(hidden=hidden, shown=shown)
    result = pruned(source)
    for name in ("hidden", "shown"):
        assert weights_of(source.parent / "out" / f"{name}.onnx")["down"].shape == (16, 8)
    reasons = [group["locked"] for group in result.files[0].report["groups"]]
    assert "another file or body of the same network cannot lose it" in reasons


def two():
    return {"up": (6, 32), "down": (32, 8), "k": (8, 24), "q": (24, 5)}


def test_a_network_that_can_lose_nothing_is_copied(folder):
    tiny = model("y = MatMul(x, w)", x="float[n,6] x", w=(6, 60))
    source = folder(model=mlp(), other=tiny)
    result = pruned(source, None)
    assert (source.parent / "out" / "other.onnx").read_bytes() == (source / "other.onnx").read_bytes()
    (_, other) = result.files
    assert other.report is None
    assert not other.leads
    assert "nothing to prune" in other.why
    assert result.report["files"]["other.onnx"] == {"copied": other.why}


def test_a_folder_that_is_there_is_replaced_as_a_whole(folder):
    source = folder(model=mlp())
    out = source.parent / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    (out / "old.onnx").write_text("old")
    with pytest.raises(InputError, match=r"out exists; give another name, or --force"):
        pruned(source)
    prune_files(source, out, make_options(latency=False), ROWS, force=True, progress=silent)
    assert "old.txt" not in files_in(out)
    assert sorted(path.name for path in source.parent.iterdir()) == ["model", "out"]


def test_models_that_share_a_file_of_weights_have_files_of_their_own(folder):
    """One of them is pruned, one is copied, and the source is a cache of links."""
    source = folder()
    blobs = source.parent / "blobs"
    blobs.mkdir()
    wide = model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", x="float[n,6] x", w=(6, 256), v=(256, 5))
    alone = model("y = MatMul(x, z)", x="float[n,6] x", z=(6, 300))
    for name, proto in (("wide", wide), ("alone", alone)):
        onnx.save(proto, blobs / f"{name}.onnx", save_as_external_data=True, location="all.data", size_threshold=0)
        (source / f"{name}.onnx").symlink_to(blobs / f"{name}.onnx")
    (source / "all.data").symlink_to(blobs / "all.data")
    before = ort.InferenceSession(blobs / "alone.onnx").run(None, {"x": ROWS})[0]
    pruned(source, None)
    out = source.parent / "out"
    moved = out.rename(source.parent / "moved")
    np.testing.assert_array_equal(ort.InferenceSession(moved / "alone.onnx").run(None, {"x": ROWS})[0], before)
    assert ort.InferenceSession(moved / "wide.onnx").run(None, {"x": ROWS})[0].shape == (64, 5)


def test_linked_folders_are_part_of_a_folder(folder, tmp_path):
    source = folder(model=mlp())
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "merges.txt").write_text("a b")
    (source / "tok").symlink_to(tmp_path / "tok")
    (source / "again").symlink_to(source)  # no end
    pruned(source)
    assert (source.parent / "out" / "tok" / "merges.txt").read_text() == "a b"
    assert not (source.parent / "out" / "again").exists()


def test_a_link_that_leads_nowhere_is_told(folder):
    source = folder(model=mlp())
    (source / "vocab.txt").symlink_to(source / "gone.txt")
    with pytest.raises(InputError, match=r"vocab\.txt: the link leads nowhere"):
        pruned(source)


def test_options_of_the_first_file_are_no_trouble_for_others(folder):
    source = folder(first=mlp(), later=mlp("other_", end=("y = Add(h, h)",)))
    result = pruned(source, only="up", effort="quick", samples=48, metric="embedding", eval_data=ROWS)
    assert [each.report["output"]["params"] < each.report["input"]["params"] for each in result.files] == [True, True]


def test_all_files_of_a_network_are_timed_by_the_users_timer(folder):
    source = folder(first=mlp(), later=mlp("other_", end=("y = Add(h, h)",)))
    result = pruned(source, timer=quiet, latency=True)
    latencies = [each.report["latency"][0] for each in result.files]
    assert [latency["timer"] for latency in latencies] == ["quiet", "quiet"]
    assert latencies[0]["after_ms"] == latencies[1]["after_ms"] > ALONE
    with pytest.raises(OptionError, match="timer has no effect without latency"):
        pruned(source, timer=quiet)


def test_a_weight_that_is_stored_in_another_form_is_told(folder):
    proto = mlp("other_")
    tensor = next(each for each in proto.graph.initializer if each.name == "other_down")
    turned = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
    tensor.CopyFrom(numpy_helper.from_array(turned, "other_down"))
    proto.graph.node[-1].CopyFrom(onnx.helper.make_node("Gemm", ["c", "other_down"], ["y"], transB=1))
    big = {"k": (6, 2000)}  # what both have beside it, so that they count as one network
    more = model("z = MatMul(x, k)", x="float[n,6] x", y="float[n,2000] z", **big)
    one = mlp()
    for each in (one, proto):
        each.graph.node.append(more.graph.node[0])
        each.graph.initializer.append(more.graph.initializer[0])
        each.graph.output.append(more.graph.output[0])
    source = folder(one=one, other=proto)
    with pytest.raises(InputError, match=r"other\.onnx: weight 'other_down' is cut as none is in the file that leads"):
        pruned(source)
    assert not (source.parent / "out").exists()


def test_numbers_that_are_equal_by_chance_cut_nothing(folder):
    """A head of its own has zeros for a bias, as a layer of the first file has."""
    zeros = {"s": np.zeros(32, np.float32)}
    nodes = ("a = MatMul(x, p)", "b = Add(a, s)", "c = Relu(b)", "h = MatMul(c, q)")
    shared = {"p": (6, 32), "q": (32, 400), **zeros}
    one = model(*nodes, "y = Neg(h)", x="float[n,6] x", **shared)
    head = ("d = MatMul(x, r)", "e = Add(d, s)", "f = Relu(e)", "z = MatMul(f, t)")
    other = model(
        *nodes, "y = Neg(h)", *head, x="float[n,6] x", y="float[n,400] y, float[n,3] z", r=(6, 32), t=(32, 3), **shared
    )
    source = folder(one=one, other=other)
    pruned(source)
    weights = weights_of(source.parent / "out" / "one.onnx")
    assert weights["p"].shape == (6, 16)
    lead = weights_of(source.parent / "out" / "other.onnx")
    assert {lead["r"].shape, lead["t"].shape} == {(6, 32), (32, 3)} or lead["r"].shape[1] == lead["t"].shape[0]


def test_networks_that_share_a_table_are_two(folder):
    ids = {"x": "int64[n,s] ids", "table": (200, 6)}
    lookup = "e = Gather(table, ids)"
    mid = ("a = MatMul(e, {0})", "b = Relu(a)", "y = MatMul(b, {1})")
    one = model(lookup, *(each.format("p", "q") for each in mid), p=(6, 32), q=(32, 5), **ids)
    other = model(lookup, *(each.format("r", "t") for each in mid), r=(6, 24), t=(24, 5), **ids)
    assert [each.leads for each in pruned(folder(one=one, other=other), None).files] == [True, True]


# -- what is refused ---------------------------------------------------------------------------------------


def test_nothing_is_written_where_nothing_can_be_pruned(folder):
    source = folder(model=model("y = MatMul(x, w)", x="float[n,6] x", w=(6, 60)))
    with pytest.raises(NothingToPrune, match=r"model\.onnx: nothing to prune"):
        pruned(source, None)
    assert [path.name for path in source.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("file", "message"),
    [(".git", r"out is not replaced, it holds \.git"), ("thesis.tex", "out is not replaced, it holds no model")],
)
def test_what_is_no_output_of_ours_is_not_replaced(folder, file, message):
    source = folder(model=mlp())
    out = source.parent / "out"
    out.mkdir()
    (out / file).write_text("mine")
    with pytest.raises(InputError, match=message):
        prune_files(source, out, make_options(latency=False), ROWS, force=True, progress=silent)
    assert (out / file).read_text() == "mine"


def test_samples_in_the_output_are_not_replaced(folder):
    source = folder(model=mlp())
    out = source.parent / "out"
    out.mkdir()
    onnx.save(mlp(), out / "model.onnx")
    np.savez(out / "s.npz", x=ROWS)
    with pytest.raises(InputError, match=r"s\.npz in it is part of the data"):
        prune_files(source, out, make_options(latency=False), str(out / "s.npz"), force=True, progress=silent)
    assert (out / "s.npz").exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        onnxprune.prune_folder(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model", "the output lies in the input or is it"),
        ("model/inside", "the output lies in the input or is it"),
        ("", "the output lies in the input or is it"),
        ("nowhere/out", "there is no folder"),
        ("file", "is a file; give a folder"),
    ],
)
def test_places_that_cannot_be(folder, target, message):
    source = folder(model=mlp())
    (source.parent / "file").write_text("")
    with pytest.raises(InputError, match=message):
        prune_files(source, source.parent / target, make_options(), None, force=True, progress=silent)
    assert sorted(path.name for path in source.parent.iterdir()) == ["file", "model"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("out/r.json", "the report would lie in the output"),
        ("model/tokenizer.json", "the report would lie in the input"),
        ("there.json", "there.json exists"),
    ],
)
def test_a_report_has_a_place_of_its_own(folder, place, message):
    source = folder(model=mlp())
    (source.parent / "there.json").write_text("{}")
    out = source.parent / "out"
    force = place.startswith("model")
    with pytest.raises(InputError, match=message):
        prune_files(
            source, out, make_options(), None, report_path=source.parent / place, force=force, progress=silent
        )  # fmt: skip
    assert not out.exists()


def test_a_folder_without_a_model(folder):
    with pytest.raises(InputError, match=r"model: the folder holds no file that ends in \.onnx"):
        pruned(folder())


def test_samples_of_several_networks_are_told_apart(folder):
    other = model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", x="float[n,6] x", w=(6, 64), v=(64, 5))
    source = folder(model=mlp(), other=other)
    with pytest.raises(OptionError, match=r"2 networks; give a folder with samples of each: other\.npz, model\.npz"):
        pruned(source, ROWS)
    assert [path.name for path in source.parent.iterdir()] == ["model"]
    data = source.parent / "data"
    data.mkdir()
    np.savez(data / "other.npz", x=ROWS)
    with pytest.raises(OptionError) as error:
        pruned(source, data, criterion="taylor")
    assert str(error.value) == (
        f"data: the folder holds 2 networks; give a folder with samples of each: other.npz, model.npz, and {data} has "
        "none of model.onnx"
    )
    np.savez(data / "model.npz", x=ROWS)
    result = pruned(source, data, criterion="taylor", reconstruct=True, scope="global")
    assert [each.report["options"]["criterion"] for each in result.files] == ["taylor", "taylor"]


@pytest.mark.parametrize(
    "options",
    [{"criterion": "taylor"}, {"reconstruct": True}, {"scope": "loss"}, {"sweeps": 2}, {"curves": "gradient"}],
)
def test_networks_without_samples_get_generated_ones_for_options_that_need_some(folder, options):
    other = model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", x="float[n,6] x", w=(6, 64), v=(64, 5))
    result = pruned(folder(model=mlp(), other=other), None, effort="quick", **options)
    assert [each.report["calibration"]["source"] for each in result.files] == ["generated", "generated"]


# -- settings ----------------------------------------------------------------------------------------------


def test_settings_speak_of_the_models_near_them(folder):
    tiny = model("y = MatMul(x, w)", x="float[n,6] x", w=(6, 60))
    source = folder(model=mlp())
    onnx.save(tiny, source / "sub" / "tiny.onnx")
    text = '{"intermediate_size": 32}'
    (source / "sub" / "config.json").write_text(text)
    pruned(source, None)
    assert (source.parent / "out" / "sub" / "config.json").read_text() == text
    assert json.loads((source.parent / "out" / "config.json").read_text())["intermediate_size"] == 16


def test_settings_that_are_no_text_stay(folder):
    source = folder(model=mlp())
    (source / "config.json").write_bytes(b'{"intermediate_size": 32, "a": "\xff"}')
    pruned(source)
    assert (source.parent / "out" / "config.json").read_bytes() == b'{"intermediate_size": 32, "a": "\xff"}'


def test_settings_of_one_line_stay_on_it():
    changed, _ = adjusted('{"intermediate_size": 64}\n', {"model.onnx": report_of((64, 48))})
    assert changed == '{"intermediate_size": 48}\n'


def report_of(*groups):
    return {"groups": [{"kind": "neurons", "units": units, "kept": kept} for units, kept in groups]}


def test_settings_within_settings_follow():
    text = json.dumps({"model": {"decoder": {"intermediate_size": 64, "num_attention_heads": 64}}})
    changed, said = adjusted(text, {"model.onnx": report_of((64, 48), (64, 48))})
    assert json.loads(changed) == {"model": {"decoder": {"intermediate_size": 48, "num_attention_heads": 64}}}
    assert said == ["intermediate_size 64 became 48"]


def test_one_number_for_layers_that_differ_stays():
    text = '{"n_inner": 64}'
    changed, said = adjusted(text, {"model.onnx": report_of((64, 48), (64, 64), (128, 3))})
    assert changed == text
    assert said == ["n_inner stays 64: the layers keep 48, 64"]


def test_scores_of_as_many_tokens_are_no_inner_width():
    report = report_of((64, 48), (64, 48), (64, 64), (64, 64))
    for group, kind in zip(report["groups"][2:], ("output 'logits'", "input 'states'"), strict=True):
        group["locked"] = f"it is part of the graph {kind}"
    assert adjusted('{"d_ff": 64}', {"model.onnx": report})[1] == ["d_ff 64 became 48"]


def test_a_folder_whose_width_is_that_of_its_scores_has_it_in_its_settings(folder):
    nodes = ("h = MatMul(x, w)", "r = Relu(h)", "y = MatMul(r, v)")
    source = folder(model=model(*nodes, x="float[n,6] x", w=(6, 32), v=(32, 32)))
    (source / "config.json").write_text('{"intermediate_size": 32}')
    assert pruned(source).settings == ("config.json: intermediate_size 32 became 16",)


def test_encoders_and_decoders_have_settings_of_their_own():
    text = '{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}'
    reports = {"encoder_model.onnx": report_of((64, 10)), "decoder_model.onnx": report_of((64, 20))}
    assert json.loads(adjusted(text, reports)[0]) == {"encoder_ffn_dim": 10, "decoder_ffn_dim": 20}


@pytest.mark.parametrize(
    "text", ["no JSON", "[64]", '{"intermediate_size": true}', '{"intermediate_size": null}', "{}"]
)
def test_other_settings_stay_to_the_byte(text):
    assert adjusted(text, {"model.onnx": report_of((64, 32), (1, 1))}) == (text, [])


# -- caches ------------------------------------------------------------------------------------------------

WHO = (
    "ONNX Runtime GenAI reads it off the model, layer by layer; programs that make inputs by such a number, as Optimum "
    "and transformers.js do, cannot run the model"
)


def caches_of(*counts):
    """Return caches of four heads of size 16 that keep so many heads each; None for one that is gone."""
    return [CacheSizes(("n", 4, "p", 16), None if count is None else ("n", count, "p", 16)) for count in counts]


def test_heads_of_caches_follow_where_all_keep_the_same():
    text = json.dumps({"model": {"decoder": {"num_key_value_heads": 4, "head_size": 16, "num_attention_heads": 8}}})
    changed, said = adjusted(text, {}, caches_of(3, 3))
    decoder_settings = {"num_key_value_heads": 3, "head_size": 16, "num_attention_heads": 8}
    assert json.loads(changed) == {"model": {"decoder": decoder_settings}}
    assert said == ["num_key_value_heads 4 became 3"]


def test_heads_of_caches_that_differ_stay_and_it_is_said_who_cannot_run_the_model():
    text = '{"num_key_value_heads": 4}'
    kept = "num_key_value_heads stays 4: the inputs that hold the past keep 3, 4"
    assert adjusted(text, {}, caches_of(3, 4)) == (text, [f"{kept}. {WHO}"])


def test_the_size_of_heads_follows():
    thin = [CacheSizes(("n", 4, "p", 16), ("n", 4, "p", 12))] * 2
    assert json.loads(adjusted('{"head_dim": 16, "num_key_value_heads": 4}', {}, thin)[0])["head_dim"] == 12


def test_heads_without_a_number_of_their_own_are_told():
    text = '{"n_head": 4}'
    said = "nothing states the heads of keys and values apart from those of queries"
    assert adjusted(text, {}, caches_of(3, 3)) == (text, [f"{said}. {WHO}"])


def test_caches_that_are_gone_are_told_and_the_others_counted():
    changed, said = adjusted('{"num_key_value_heads": 4}', {}, caches_of(2, None, 2))
    assert json.loads(changed) == {"num_key_value_heads": 2}
    gone = "1 of 3 inputs that hold the past are gone, the number of layers stays"
    who = "ONNX Runtime GenAI and Optimum read it off the model; programs that make inputs by such a number, as"
    assert said[0] == "num_key_value_heads 4 became 2"
    assert said[1].startswith(f"{gone}. {who} transformers.js does")


def test_caches_that_stay_change_no_setting():
    text = '{"num_key_value_heads": 4, "head_dim": 16}'
    assert adjusted(text, {}, caches_of(4, 4)) == (text, [])


def test_a_folder_with_smaller_caches_states_them(folder):
    source = folder(model=decoder())
    (source / "genai_config.json").write_text('{"model": {"decoder": {"num_key_value_heads": 2, "head_size": 4}}}')
    ids = np.random.default_rng(0).integers(0, 24, (24, 6))
    result = pruned(source, {"input_ids": ids}, change_io=True, only=("wq:heads",))
    assert "genai_config.json: num_key_value_heads 2 became 1" in result.settings
    assert '"num_key_value_heads": 1' in (source.parent / "out" / "genai_config.json").read_text()
    taken = {each.name: each.shape for each in ort.InferenceSession(source.parent / "out" / "model.onnx").get_inputs()}
    assert taken["past_key"] == ["n", 1, "p", 4]


def test_files_of_one_network_lose_the_same_heads_of_caches(folder):
    source = folder(one=decoder(), other=decoder("more = Neg(logits)", outputs=SEVERAL))
    ids = np.random.default_rng(0).integers(0, 24, (24, 6))
    result = pruned(source, {"input_ids": ids}, change_io=True, only=("wq:heads",))
    assert [each.leads for each in result.files].count(True) == 1
    for name in ("one", "other"):
        inputs = ort.InferenceSession(source.parent / "out" / f"{name}.onnx").get_inputs()
        assert {each.name: each.shape for each in inputs}["past_value"] == ["n", 1, "p", 4]


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_takes_a_folder(folder):
    source = folder(model=mlp())
    out, report = source.parent / "out", source.parent / "report.json"
    shown = invoke(
        "prune", str(source), "-o", str(out), "--ratio", "0.5", "--no-latency", "--report", str(report)
    )  # fmt: skip
    assert "model.onnx: reading" in shown.stderr
    assert shown.stdout.splitlines()[-2:] == [
        "config.json: intermediate_size 32 became 16",
        f"{out}: written, with all that lies beside the models",
    ]
    values = json.loads(report.read_text())
    assert values["files"]["model.onnx"]["output"]["path"] == str(out / "model.onnx")
    assert load(out / "model.onnx").params < load(source / "model.onnx").params


def test_a_folder_in_python(folder):
    source = folder(model=mlp())
    result = onnxprune.prune_folder(source, source.parent / "out", 0.5, latency=False)
    assert result.files[0].report["output"]["params"] < result.files[0].report["input"]["params"]


def residual():
    """A file with a residual block."""
    weights = {name: array(name, (6, 6)) for name in ("up", "down", "last")}
    nodes = ["h = MatMul(x, up)", "r = Relu(h)", "o = MatMul(r, down)", "s = Add(x, o)", "y = MatMul(s, last)"]
    return model(*nodes, x="float[n,6] x", **weights)


def test_branches_go_from_the_file_of_a_folder(folder):
    source = folder(net=residual())
    report = prune_folder_at(source, without="o")
    (file,) = report["files"].values()
    assert [each["name"] for each in file["depth"]["branches"] if each["removed"]] == ["o"]
    assert json.loads((source.parent / "out" / "config.json").read_text())["hidden_size"] == 6


def test_twins_of_several_files_of_one_network_stay_and_others_are_no_hindrance(folder, monkeypatch):
    monkeypatch.setattr(tied, "LEAST_BYTES", 16)
    held = residual()
    source = folder(net=held, other=residual())
    report = prune_folder_at(source, tie=True, ratio=0.3)
    assert [file["verification"]["passed"] for file in report["files"].values()] == [True, True]
    for name in ("up", "last"):
        weight = next(tensor for tensor in held.graph.initializer if tensor.name == name)
        weight.CopyFrom(numpy_helper.from_array(array("up", (6, 6)), name))
    for name in ("net", "other"):
        onnx.save(held, source / f"{name}.onnx")
    with pytest.raises(OptionError) as error:
        prune_folder_at(source, tie=True, ratio=0.3, force=True)
    assert str(error.value) == "tie goes with one file for each network: net.onnx and other.onnx hold the same one"


def prune_folder_at(source, **options):
    return onnxprune.prune_folder(source, source.parent / "out", data={"x": ROWS}, latency=False, **options).report


def test_a_target_of_caches_is_for_the_networks_that_have_some(folder):
    source = folder(encoder=mlp(), decoder=decoder())
    (source.parent / "samples").mkdir()
    np.savez(source.parent / "samples" / "encoder.npz", x=ROWS)
    np.savez(source.parent / "samples" / "decoder.npz", input_ids=np.random.default_rng(0).integers(0, 24, (24, 6)))
    options = {"targets": {"kv-cache": 0.5}, "change_io": True, "ratio": None}
    files = {each.name: each for each in pruned(source, str(source.parent / "samples"), **options).files}
    report = files["decoder.onnx"].report
    assert report["output"]["cache_bytes"] == 0.5 * report["input"]["cache_bytes"]
    assert files["encoder.onnx"].why == "target kv-cache alone was to be met, and it keeps nothing of the past"
    with pytest.raises(OptionError, match="no input of this model holds what is kept of the past"):
        pruned(folder_of(source, "encoder"), ROWS, **options)


def folder_of(source, name):
    alone = source.parent / "other" / "alone"
    alone.mkdir(parents=True)
    (alone / f"{name}.onnx").write_bytes((source / f"{name}.onnx").read_bytes())
    return alone
