"""Pruning in little memory: the same cut, the same proof, and no model in memory as a whole."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.commands import prune as pruning
from onnxprune.commands.folder import prune_files
from onnxprune.commands.prune import prune, prune_file
from onnxprune.commands.sweep import make_family
from onnxprune.errors import OptionError, VerificationError
from onnxprune.evaluation import blame, verify
from onnxprune.evaluation.compare import compare_models
from onnxprune.graph import edit
from onnxprune.graph.edit import with_weights_inside
from onnxprune.graph.files.deferred import defers
from onnxprune.graph.files.read import load
from onnxprune.planning.options import make_options
from onnxprune.progress import silent
from onnxprune.runtime import chain as chains
from onnxprune.runtime.room import memory_limited
from onnxprune.surgery.mask import masked
from tests.support.build import model
from tools.models.export_large import Sizes, decoder

SIZES = Sizes(layers=2, hidden=160, ffn=512, heads=4, kv_heads=2, vocabulary=600, positions=1100, is_tied=True)
LITTLE = 2_500_000  # bytes: in them, the model has about ten pieces
BY_WEIGHTS = {"criterion": "l2", "reconstruct": False, "latency": False}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoder") / "m.onnx"
    decoder(place, SIZES)
    ids = np.random.default_rng(0).integers(0, SIZES.vocabulary, (16, 24))
    np.savez(place.with_suffix(".npz"), input_ids=ids)
    return place


@pytest.fixture
def ran(monkeypatch):
    """A list that grows by each model that is run piece by piece."""
    seen, original = [], chains.Chain.runs
    monkeypatch.setattr(chains.Chain, "runs", lambda self, batches: seen.append(self) or original(self, batches))
    return seen


@pytest.fixture
def made_later(monkeypatch):
    """A list that grows by the shape of each tensor whose numbers are made when they are read."""
    seen, original = [], edit.deferred

    def watched(content, **options):
        location = original(content, **options)
        seen.extend([] if location is None else [tuple(content.shape)])
        return location

    monkeypatch.setattr(edit, "deferred", watched)
    return seen


def pruned(path, target, limit, data=None, **options):
    target.parent.mkdir(exist_ok=True)
    with memory_limited(limit):
        return prune_file(path, target, make_options(**{"ratio": 0.25, **options}), data, force=True, progress=silent)


def test_the_file_is_the_same_when_weights_alone_decide(path, tmp_path, ran, made_later):
    whole = pruned(path, tmp_path / "one" / "p.onnx", 10**12, **BY_WEIGHTS)
    assert ran == made_later == []
    little = pruned(path, tmp_path / "two" / "p.onnx", LITTLE, **BY_WEIGHTS)
    assert len(ran) >= 4
    assert {(160, 384), (384, 160)} <= set(made_later)
    for name in ("p.onnx", "p.onnx.data"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert little.report["initializers"] == whole.report["initializers"]
    assert len(little.report["verification"]["runs"]) == len(whole.report["verification"]["runs"]) == 3
    assert not defers()


def test_a_file_that_holds_its_weights_becomes_the_same(path, tmp_path, ran, made_later, monkeypatch):
    """Set aside, they are in no version of the model, which still runs whole."""
    inline = tmp_path / "inline.onnx"
    proto = with_weights_inside(load(path).proto, path.parent)
    for tensor in proto.graph.initializer:
        tensor.ClearField("data_location")  # that of no file needs no bytes
    onnx.save(proto, inline)
    options = {"targets": {"params": 0.85}, "effort": "quick", "latency": False}
    written, data = [], path.with_suffix(".npz")
    for held in (10**12, 0):
        monkeypatch.setattr(pruning, "HELD_BYTES", held)
        assert made_later == []
        with memory_limited(10**12):
            place = prune_file(inline, tmp_path / "p.onnx", make_options(**options), data, force=True, progress=silent)
            again = prune(inline, data=str(data), **options).save(tmp_path / "again.onnx", force=True)
        written += [Path(place.report["output"]["path"]).read_bytes(), again.read_bytes()]
    assert ran == []
    assert {SIZES.hidden} < {size for shape in made_later for size in shape}
    assert len(set(written)) == 1
    assert not defers()


@pytest.fixture
def branched(tmp_path):
    """A file with three branches, whose weights are large enough to be set aside, and samples."""
    lines, weights = ["s0 = MatMul(x, win)"], {"win": (24, 96), "wo": (96, 10)}
    for i in range(3):
        lines += [
            f"n{i} = LayerNormalization(s{i}, g{i}, be{i})", f"a{i} = MatMul(n{i}, u{i})", f"r{i} = Relu(a{i})",
            f"b{i} = MatMul(r{i}, d{i})", f"s{i + 1} = Add(s{i}, b{i})",
        ]  # fmt: skip
        weights |= {f"u{i}": (96, 256), f"d{i}": (256, 96)}
        weights |= {f"g{i}": np.ones(96, np.float32), f"be{i}": np.zeros(96, np.float32)}
    onnx.save(model(*lines, "y = MatMul(s3, wo)", x="float[n,24] x", **weights), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((64, 24)).astype(np.float32)
    np.savez(tmp_path / "m.npz", x=x)
    return tmp_path / "m.onnx"


def test_without_room_for_temporary_files_the_model_is_held(branched, tmp_path, made_later, monkeypatch):
    """The result is the same, in more memory."""
    written, asked = [], []
    monkeypatch.setattr(pruning, "HELD_BYTES", 0)
    for room in (True, False):
        monkeypatch.setattr(pruning, "has_room", lambda size, room=room: asked.append(size) or room)
        made_later.clear()
        target = tmp_path / f"{room}" / "p.onnx"
        pruned(branched, target, 10**12, **BY_WEIGHTS)
        assert bool(made_later) == room
        written.append(target.read_bytes())
    assert written[0] == written[1]
    assert asked == pytest.approx([2 * branched.stat().st_size] * 2, rel=0.02)


def test_what_the_proof_of_a_round_reads_is_let_go_of(branched, tmp_path, monkeypatch):
    """Temporary files hold the original, and one version of it."""
    monkeypatch.setattr(pruning, "HELD_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    counts, original = [], verify.read_back

    def read_back(path):
        model = original(path)
        counts.append(len([each for each in tmp_path.glob("onnxprune-*/*") if each.name.isdecimal()]))
        return model

    monkeypatch.setattr(verify, "read_back", read_back)
    prune(branched, ratio=0.3, rounds=3, round_to=1, **BY_WEIGHTS)
    large = sum(
        each.dims[:] == [96, 256] or each.dims[:] == [256, 96] for each in onnx.load(branched).graph.initializer
    )
    assert large == 6
    assert counts == [2 * large] * 3


def test_temporary_files_that_run_full_leave_the_result_as_it_is(branched, tmp_path, monkeypatch):
    """There was room for them when the run began."""
    monkeypatch.setattr(pruning, "HELD_BYTES", 0)
    written, original = [], Path.write_bytes
    for room in (10**9, 250_000):
        left = [room]

        def write_bytes(self, data, left=left):
            if self.name.isdecimal():  # of what is set aside
                left[0] -= len(data)
                if left[0] < 0:
                    raise OSError(errno.EDQUOT, "Disk quota exceeded", str(self))
            return original(self, data)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        target = tmp_path / f"{room}" / "p.onnx"
        pruned(branched, target, 10**12, branched.with_suffix(".npz"), criterion="l2", latency=False)
        assert (left[0] < 0) == (room < 10**9)
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_a_plan_of_what_is_set_aside_is_the_same(branched, monkeypatch):
    plans, moved, original = [], [], pruning.with_weights_aside
    monkeypatch.setattr(pruning, "with_weights_aside", lambda model: moved.append(model.path) or original(model))
    for held in (10**12, 0):
        assert moved == []
        monkeypatch.setattr(pruning, "HELD_BYTES", held)
        plans.append(onnxprune.plan(branched, targets={"size": 0.5}, criterion="l2", round_to=1).to_dict())
    assert moved == [branched]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("options", [{"without": ("b1",)}, {"rounds": 2}, {"linearize": ("b1",)}])
def test_a_target_of_size_is_met_by_what_is_set_aside(options, branched, monkeypatch):
    """Versions between two steps are in memory: their deferred weights count."""
    size, written = branched.stat().st_size, []
    for held in (10**12, 0):
        monkeypatch.setattr(pruning, "HELD_BYTES", held)
        result = prune(
            branched, data=str(branched.with_suffix(".npz")), targets={"size": 0.5}, effort="quick", criterion="l2",
            round_to=1, latency=False, **options,
        )  # fmt: skip
        written.append(result.model.SerializeToString())
    assert written[0] == written[1]
    assert 0.47 * size < len(written[1]) <= 0.5 * size


def test_a_target_of_size_is_met_by_external_data_in_little_memory(branched, tmp_path, made_later):
    """A version of such a model is external as well, also where it was made of deferred tensors alone."""
    onnx.save(onnx.load(branched), tmp_path / "e.onnx", save_as_external_data=True, location="e.data")
    options, sizes = {"targets": {"size": 0.5}, "without": ("b1",), "round_to": 1}, []
    for limit in (10**12, 1_000_000):
        assert made_later == []
        place = tmp_path / f"{limit}" / "p.onnx"
        pruned(tmp_path / "e.onnx", place, limit, branched.with_suffix(".npz"), ratio=None, **options, **BY_WEIGHTS)
        sizes.append(load(place).size_bytes())
    assert made_later
    size = load(tmp_path / "e.onnx").size_bytes()
    assert sizes[0] == sizes[1]
    assert 0.45 * size < sizes[1] <= 0.5 * size


def test_a_folder_is_as_its_file(path, tmp_path, ran, made_later):
    """Both files of a network, one of which follows the other."""
    source, options = tmp_path / "both", make_options(ratio=0.25, **BY_WEIGHTS)
    source.mkdir()
    for name in ("first", "second"):
        decoder(source / f"{name}.onnx", SIZES)
    with memory_limited(LITTLE):
        result = prune_files(source, tmp_path / "cut", options, progress=silent)
    assert [each.leads for each in result.files] == [True, False]
    assert len(ran) >= 4
    assert made_later.count((160, 384)) >= 4  # of both layers of both files
    alone = load(pruned(path, tmp_path / "one" / "p.onnx", 10**12, **BY_WEIGHTS).report["output"]["path"])
    for each in result.files:
        written = load(result.target / each.name)
        assert all(np.array_equal(written.array(name), alone.array(name)) for name in alone.constants)
    assert not defers()


def test_files_of_a_folder_are_set_aside(branched, tmp_path, made_later, monkeypatch):
    """The file that follows no other one, that is."""
    source, written = tmp_path / "both", []
    source.mkdir()
    for name in ("first", "second"):
        shutil.copyfile(branched, source / f"{name}.onnx")
    for held in (10**12, 0):
        monkeypatch.setattr(pruning, "HELD_BYTES", held)
        assert made_later == []
        result = prune_files(source, tmp_path / f"{held}", make_options(ratio=0.25, **BY_WEIGHTS), progress=silent)
        written.append([(result.target / each.name).read_bytes() for each in result.files])
    assert {(96, 192), (192, 96)} <= set(made_later)
    assert written[0] == written[1]
    assert not defers()


def test_a_sweep_is_bounded(path, tmp_path, ran, made_later):
    whole = pruned(path, tmp_path / "one" / "p.onnx", 10**12, **BY_WEIGHTS).report["output"]["path"]
    with memory_limited(LITTLE):
        make_family(path, tmp_path / "family", "ratio", [0.25], make_options(**BY_WEIGHTS))
    member, alone = load(next((tmp_path / "family").glob("*.onnx"))), load(whole)
    assert len(ran) >= 4
    assert (160, 384) in made_later
    assert all(np.array_equal(member.array(name), alone.array(name)) for name in alone.constants)
    assert not defers()


def test_what_samples_decide_is_nearly_the_same(path, tmp_path):
    """Half precision rounds at other places where a model is run in pieces, so that a few units may differ."""
    options = make_options(targets={"params": 0.85}, effort="quick")
    reports = []
    for limit in (10**12, LITTLE):
        with memory_limited(limit):
            target = tmp_path / f"{limit}.onnx"
            result = prune_file(path, target, options, path.with_suffix(".npz"), force=True, progress=silent)
        reports.append(result.report)
    assert all(report["output"]["params"] <= 0.85 * report["input"]["params"] for report in reports)
    assert all(report["verification"]["passed"] for report in reports)
    assert reports[1]["latency"][0]["before_ms"] > 0
    whole, little = (report["fidelity"]["figures"] for report in reports)
    assert little.keys() == whole.keys()
    assert little == pytest.approx(whole, rel=0.25, abs=0.05)


def test_a_result_can_be_saved_again(path, tmp_path):
    result = pruned(path, tmp_path / "p.onnx", LITTLE, **BY_WEIGHTS)
    one, other = load(tmp_path / "p.onnx"), load(result.save(tmp_path / "again.onnx"))
    assert one.constants.keys() == other.constants.keys()
    assert all(np.array_equal(one.array(name), other.array(name)) for name in one.constants)


def test_a_result_in_memory_holds_its_numbers(path, tmp_path):
    with memory_limited(LITTLE):
        result = prune(path, 0.25, **BY_WEIGHTS)
    written = pruned(path, tmp_path / "p.onnx", LITTLE, **BY_WEIGHTS)
    saved, expected = load(result.save(tmp_path / "again.onnx")), load(tmp_path / "p.onnx")
    assert all(np.array_equal(saved.array(name), expected.array(name)) for name in expected.constants)
    assert isinstance(written.model, onnx.ModelProto)


def test_a_wrong_cut_is_refused(path, tmp_path, monkeypatch):
    """The proof in pieces is of the outputs: a masked model that differs in one weight does not pass."""

    def wrong(traced, kept, fitted=None, gone=()):
        half = traced.model.array("layers.1.ffn.down") / 2
        return masked(traced, kept, {**(fitted or {}), "layers.1.ffn.down": half}, gone)

    monkeypatch.setattr(verify, "masked", wrong)
    monkeypatch.setattr(blame, "blame", lambda *_, **__: [])
    with pytest.raises(VerificationError, match="'logits' differs from the masked model by"):
        pruned(path, tmp_path / "p.onnx", LITTLE, **BY_WEIGHTS)
    assert list(tmp_path.glob("p.onnx*")) == []


def test_what_needs_a_whole_session_is_said(path, tmp_path):
    with pytest.raises(OptionError, match="does not fit the memory; give a target of macs"):
        pruned(path, tmp_path / "p.onnx", LITTLE, round_to="auto", **BY_WEIGHTS)


def test_models_are_compared_in_pieces(path, ran):
    loaded = load(path)
    with memory_limited(LITTLE):
        found = compare_models(loaded, loaded, budget_s=0.01, rounds=3)
    assert found.difference.max_abs_diff == 0
    assert found.before.peak_memory_bytes is None
    assert found.before.median_ms > 0
    assert len(ran) >= 2
