"""Kills at every point between two file operations: the output is the old model or the new one, and it loads."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pkgutil import resolve_name

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnxprune import sweep
from onnxprune.cli.group import cli
from onnxprune.errors import InputError, ModelError
from onnxprune.graph.files import publish
from onnxprune.graph.files.publish import staging
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import staged
from onnxprune.runtime.session import open_session
from tests.support.build import dense

OPERATIONS = ("link", "unlink", "rename", "replace", "fsync", "chmod", "rmdir", "mkdir", "remove")


class Killed(BaseException):
    """Stands for a kill: from it on, no operation on files has an effect."""


class Machine:
    """Counts the operations on files, and stops at one of them."""

    def __init__(self, monkeypatch, last):
        self.count, self.last, self.dead = 0, last, False
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, operation):
        def counted(*args, **kwargs):
            self.count += 1
            if self.dead or self.count > self.last:
                self.dead = True
                raise Killed
            return operation(*args, **kwargs)

        return counted


def network(seed, mid=300):
    """Return a model of its own numbers, small in size where all of it is in one file."""
    proto = dense("b = Relu(a)", mid=mid)
    for tensor in proto.graph.initializer:
        array = np.random.default_rng(seed).standard_normal(tuple(tensor.dims)).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return proto


def outputs(path):
    """Return what the model at a path computes: it loads, with the weights that it refers to."""
    load(path)
    return open_session(path).run({"x": np.ones((2, 6), np.float32)})["y"].tobytes()


def write(folder, seed, *, external, force, report=True, mid=300):
    """Write a model and a report that names it, as `prune` does."""
    with staging(force) as files, staged(network(seed, mid), folder / "m.onnx", folder, external, files) as path:
        digest = publish.digest_of(path)
        if report:
            files.add(folder / "r.json").write_text(json.dumps({"sha256": digest}))


def states(tmp_path, monkeypatch, before, after):
    """Yield the folder after a kill at each operation of `after`, made on what `before` leaves."""
    last = 0
    while True:
        folder = tmp_path / f"killed_{last}"
        folder.mkdir()
        before(folder)
        with monkeypatch.context() as patched:
            machine = Machine(patched, last)
            with contextlib.suppress(Killed):
                after(folder)
        yield folder, not machine.dead
        if not machine.dead:
            return
        last += 1


@pytest.mark.parametrize("external", [(False, False), (True, True), (False, True), (True, False)], ids=str)
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_kill_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch, external, links):
    """With `force`, over a model that is there; weights inside or beside it, before and after."""
    wanted = []
    for seed, outside in enumerate(external):
        (tmp_path / f"{seed}").mkdir()
        write(tmp_path / f"{seed}", seed, external=outside, force=False)
        wanted.append(outputs(tmp_path / f"{seed}/m.onnx"))
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    seen = []
    for folder, finished in states(
        tmp_path,
        monkeypatch,
        lambda folder: write(folder, 0, external=external[0], force=False),
        lambda folder: write(folder, 1, external=external[1], force=True),
    ):
        seen.append(wanted.index(outputs(folder / "m.onnx")))
        if (folder / "r.json").exists():
            digest = json.loads((folder / "r.json").read_text())["sha256"]
            assert digest == publish.digest_of(folder / "m.onnx"), "a report of another model"
        assert not finished or seen[-1] == 1
    assert seen == sorted(seen)
    assert {0, 1} == set(seen)
    assert len(seen) > 8
    kept = {path.name for path in folder.iterdir()}
    assert len(kept) == 2 + external[1], kept


@pytest.mark.parametrize("external", [True, False])
def test_a_kill_leaves_no_model_or_all_of_it(tmp_path, monkeypatch, external):
    """Without a model before: where it stands, its weights and its report do, too."""
    seen = []
    for folder, _ in states(
        tmp_path, monkeypatch, lambda _: None, lambda folder: write(folder, 1, external=external, force=False)
    ):
        seen.append((folder / "m.onnx").exists())
        if seen[-1]:
            assert outputs(folder / "m.onnx")
            assert (folder / "r.json").exists()
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


def test_a_kill_leaves_nothing_in_the_way_of_the_next_run(tmp_path, monkeypatch):
    """Weights that a kill left behind are taken where they are the same, else others get a name of their own."""
    for folder, _ in states(
        tmp_path, monkeypatch, lambda _: None, lambda folder: write(folder, 1, external=True, force=False)
    ):
        if not (folder / "m.onnx").exists():
            (folder / "r.json").unlink(missing_ok=True)
            write(folder, 2, external=True, force=False)
            first = outputs(folder / "m.onnx")
            write(folder, 1, external=True, force=True)
            assert outputs(folder / "m.onnx") != first


# -- what appears midway -----------------------------------------------------------------------------------


def folder_there(path):
    path.mkdir()
    (path / "kept").write_text("of somebody else")


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["m.onnx", "r.json"])
@pytest.mark.parametrize(
    "appear", [folder_there, os.mkfifo, lambda path: path.symlink_to("kept")], ids=["folder", "fifo", "link"]
)
def test_what_appears_midway_stays(tmp_path, appear, name, force):
    """Neither is it moved away, nor is any of the other files written."""
    said = "exists; give another name" if not force else "it stays, and nothing was written: give another name"

    def write_meanwhile():
        with staging(force) as files:
            files.add(tmp_path / "m.onnx").write_text("new")
            files.add(tmp_path / "r.json").write_text("new")
            appear(tmp_path / name)

    with pytest.raises(InputError, match=f"{name} .*{said}"):
        write_meanwhile()
    status = (tmp_path / name).lstat()
    assert not stat.S_ISREG(status.st_mode)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("force", [True, False])
def test_weights_that_appear_midway_stay(tmp_path, force):
    """A name that was free when the weights were written, and is not any more."""

    def write_meanwhile():
        with staging(force) as files, staged(network(0), tmp_path / "m.onnx", tmp_path, True, files):
            (tmp_path / "m.onnx.data").write_text("of somebody else")

    with pytest.raises(InputError, match=r"m\.onnx\.data exists; give another name"):
        write_meanwhile()
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx.data"]


# -- names of weights --------------------------------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_weights_have_the_usual_name_where_it_is_free_or_theirs(tmp_path):
    for _ in range(2):
        write(tmp_path, 0, external=True, force=True, report=False)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data"]
    write(tmp_path, 1, external=True, force=True, report=False)
    _, second = names(tmp_path)
    assert second == f"m.onnx.{publish.digest_of(tmp_path / second)[:12]}.data"
    write(tmp_path, 0, external=True, force=True, report=False)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_weights_that_another_model_reads_stay(tmp_path):
    write(tmp_path, 0, external=True, force=False, report=False)
    (tmp_path / "copy.onnx").write_bytes((tmp_path / "m.onnx").read_bytes())
    before = outputs(tmp_path / "copy.onnx")
    write(tmp_path, 1, external=True, force=True, report=False)
    assert outputs(tmp_path / "copy.onnx") == before
    assert len(names(tmp_path)) == 4


def test_weights_of_another_name_stay(tmp_path):
    onnx.save(network(0), tmp_path / "m.onnx", save_as_external_data=True, location="shared.bin", size_threshold=0)
    write(tmp_path, 1, external=True, force=True, report=False)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data", "shared.bin"]


# -- files that change midway ------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """The path of a model with its weights beside it."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", 0, external=True, force=False, report=False)
    return tmp_path / "in/m.onnx"


def truncated(source):
    data = source.with_name("m.onnx.data")
    data.write_bytes(data.read_bytes()[:100])


def other_weights(source):
    data = source.with_name("m.onnx.data")
    data.write_bytes(data.read_bytes()[::-1])


def other_model(source):
    source.write_bytes(source.read_bytes() + b"\x12\x01a")


def gone(source):
    source.with_name("m.onnx.data").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (truncated, r"m.onnx.data: (it ends before the end of tensor 'w1'|the weights of the input have changed)"),
        (other_weights, "m.onnx.data: the weights of the input have changed since they were read; prune it again"),
        (other_model, "m.onnx: the input has changed since it was read; prune it again"),
        (gone, "m.onnx.data"),
    ],
)
@pytest.mark.parametrize("moment", ["commands.rounds.at_once.prepare", "commands.steps.finish.verify.verify"])
def test_files_that_change_midway_end_the_run(source, tmp_path, monkeypatch, change, message, moment):
    place = f"onnxprune.{moment}"
    function = resolve_name(place)

    def changing(*args, **kwargs):
        if moment.endswith("verify"):
            result = function(*args, **kwargs)
            change(source)
            return result
        change(source)
        return function(*args, **kwargs)

    monkeypatch.setattr(place, changing)
    target = tmp_path / "o.onnx"
    result = CliRunner().invoke(cli, [str(source), "-o", str(target), "--criterion", "l2", "--no-latency", "--quiet"])
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert names(tmp_path) == ["in"]


def test_the_checksum_is_that_of_the_bytes_that_were_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network(0).SerializeToString())
    model, digest = load(path), publish.digest_of(path)
    path.write_bytes(network(1).SerializeToString())
    assert model.sha256() == digest != publish.digest_of(path)
    with pytest.raises(InputError, match="the input has changed since it was read; prune it again"):
        publish.check_unchanged(model.stamps, model.path)


def test_weights_that_end_while_they_are_copied(source, tmp_path):
    model = load(source)
    truncated(source)
    said = "it ends before the end of tensor 'w1': the file has become shorter"
    with pytest.raises(ModelError, match=said), staged(model.proto, tmp_path / "o.onnx", model.folder):
        pass
    assert names(tmp_path) == ["in"]


# -- folders of a sweep ------------------------------------------------------------------------------------


def sweep_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".onnx", ".data")}


@pytest.mark.soak
@pytest.mark.parametrize("external", [False, True])
def test_a_sweep_that_is_killed_goes_on_to_the_same_bytes(tmp_path, monkeypatch, external):
    """At every operation on files: members that stand there load, and the next run makes the same ones."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", 0, external=external, force=False, report=False)
    options = {"criterion": "l2", "latency": False, "reconstruct": False}

    def family(folder):
        sweep(tmp_path / "in/m.onnx", folder / "out", "ratio", [0.3, 0.5], **options)

    (tmp_path / "whole").mkdir()
    family(tmp_path / "whole")
    expected = sweep_files(tmp_path / "whole/out")
    points = 0
    for folder, _ in states(tmp_path, monkeypatch, lambda _: None, family):
        points += 1
        for path in folder.glob("out/*.onnx"):
            assert outputs(path)
        family(folder)
        assert sweep_files(folder / "out") == expected
    assert points > 20
