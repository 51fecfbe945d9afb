"""What may be written, how it gets into place, and what signals and other processes can do to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from click.testing import CliRunner

from onnxprune import prune
from onnxprune.cli.group import cli
from onnxprune.commands.sweeps.folder import SweepFolder
from onnxprune.errors import InputError
from onnxprune.graph.files import publish
from onnxprune.graph.files.publish import Reads
from tests.support.build import dense

EXISTS = r"{} exists; give another name, or --force \(in Python: force=True\) to replace it"


@pytest.fixture
def folder(tmp_path, monkeypatch, steady):
    """The current folder: an inline model, data that no model reads, and one whose weights lie in `weights`."""
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(dense("b = Relu(a)", mid=16).SerializeToString())
    return tmp_path


def external(weights, name="ext.onnx"):
    """Make a model whose weights lie in a file of this name."""
    proto = dense("b = Relu(a)", mid=700)
    onnx.save(proto, name, save_as_external_data=True, location=weights, size_threshold=0, convert_attribute=False)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def invoke(*args, code=0):
    result = CliRunner().invoke(cli, [*map(str, args), "--quiet"], prog_name="onnxprune")
    assert result.exit_code == code, (result.stderr, result.exception)
    return result.stderr


# -- what is read is not overwritten -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "args", "message"),
    [
        ("small.onnx.data", ["-o", "{}/small.onnx"], "small.onnx.data holds weights of the input; give the output"),
        ("w.bin", ["-o", "w.bin"], "w.bin holds weights of the input; give the output another name"),
        ("w.bin", ["-o", "s.onnx", "--report", "w.bin"], "w.bin holds weights of the input; give the report another"),
        ("w.bin", ["-o", "s.onnx", "--report", "./ext.onnx"], "ext.onnx is the input; give the report another name"),
        ("w.bin", ["-o", "hard.onnx"], "hard.onnx is the input; give the output another name"),
        ("w.bin", ["-o", "link.bin"], "link.bin holds weights of the input"),
        ("w.bin", ["-o", "d.npz", "--data", "{}/d.npz"], "d.npz is the data; give the output another name"),
        ("w.bin", ["-o", "s.onnx", "--data", "d.npz", "--report", "d.npz"], "d.npz is the data; give the report"),
        ("w.bin", ["-o", "s.onnx", "--report", "s.onnx.data"], "s.onnx.data is for weights of the output"),
    ],
    ids=["data of output", "output", "report", "input", "hard link", "link", "data", "report on data", "own data"],
)
def test_what_is_read_is_never_replaced(folder, weights, args, message):
    external(weights)
    Path("d.npz").write_bytes(b"samples")
    os.link("ext.onnx", "hard.onnx")
    Path("link.bin").symlink_to(weights)
    before = files(folder)
    assert message in invoke("ext.onnx", *(arg.format(folder) for arg in args), "--force", code=2)
    assert files(folder) == before


@pytest.mark.parametrize(("weights", "target"), [("s.onnx.data", "s.onnx"), ("w.bin", "w.bin")])
def test_a_result_does_not_replace_what_it_was_made_from(folder, weights, target):
    external(weights)
    before = files(folder)
    with pytest.raises(InputError, match=f"{weights} holds weights of the input; give the output another name"):
        prune("ext.onnx", latency=False).save(folder / target, force=True)
    assert files(folder) == before


def test_a_result_replaces_its_source_by_force_alone(folder):
    result = prune("model.onnx", latency=False)
    with pytest.raises(InputError, match=r"model.onnx is the input; give another name, or --force \(in Python"):
        result.save("model.onnx")
    result.save("model.onnx", force=True)
    assert onnx.load("model.onnx") == result.model


def test_a_result_is_not_made_of_weights_that_have_changed(folder):
    external("ext.onnx.data")
    result = prune("ext.onnx", latency=False)
    result.save("ext.onnx", force=True)
    expected = (
        "the weights of the input have changed since they were read; prune it again; a result that replaces its input "
        "is saved last"
    )
    with pytest.raises(InputError, match=expected):
        result.save("other.onnx")
    assert not Path("other.onnx").exists()


# -- what is there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_pipe_is_not_replaced(folder, option):
    os.mkfifo("pipe")
    output = () if option == "-o" else ("-o", "small.onnx")
    message = invoke("model.onnx", *output, option, "pipe", "--force", code=2)
    assert message == "onnxprune: pipe is a device or pipe; give the name of a file\n"
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(folder, exists):
    Path("there").mkdir()
    if exists:
        Path("there/small.onnx").write_text("old")
    Path("link.onnx").symlink_to("there/small.onnx")
    invoke("model.onnx", "-o", "link.onnx", *["--force"] * exists)
    assert Path("link.onnx").is_symlink()
    assert onnx.load("there/small.onnx").graph.node
    assert sorted(files(folder)) == ["link.onnx", "model.onnx", "there/small.onnx"]


def test_a_link_to_no_folder(folder):
    Path("link.onnx").symlink_to("nowhere/small.onnx")
    message = invoke("model.onnx", "-o", "link.onnx", code=2)
    assert message == f"onnxprune: link.onnx: there is no folder {folder / 'nowhere'}\n"


def test_permissions_stay(folder):
    for name in ("small.onnx", "r.json"):
        Path(name).write_text("old")
        Path(name).chmod(0o600)
    invoke("model.onnx", "-o", "small.onnx", "--report", "r.json", "--force")
    assert [Path(name).stat().st_mode & 0o777 for name in ("small.onnx", "r.json")] == [0o600] * 2


def test_names_may_be_as_long_as_the_system_takes(folder):
    invoke("model.onnx", "-o", "n" * 250 + ".onnx", "--report", "r" * 250 + ".json")
    assert len(files(folder)) == 3


def test_a_long_name_of_many_bytes_is_replaced(folder):
    name = "\u6a21" * 83 + ".onnx"
    Path(name).write_text("old")
    with publish.staging(True) as staging:
        staging.add(Path(name)).write_text("new")
    assert Path(name).read_text() == "new"


def test_a_file_that_is_called_as_a_backup_is_replaced(folder):
    Path(".old").write_text("old")
    with publish.staging(True) as staging:
        staging.add(Path(".old")).write_text("new")
    assert Path(".old").read_text() == "new"


@pytest.mark.parametrize("letter", ["n", "\u6a21"])
def test_weights_beside_a_model_need_room_in_its_name(folder, letter, monkeypatch):
    """The longer of the names that they may get is what counts, and nothing is done before."""
    external("w.bin")
    size = len(letter.encode())
    name = letter * (237 // size - 5) + ".onnx"
    name += "n" * (237 - len(name.encode()))
    invoke("ext.onnx", "-o", name)
    onnx.save(dense("b = Relu(a)", mid=701), "ext.onnx", save_as_external_data=True, location="other.bin")
    invoke("ext.onnx", "-o", name, "--force")
    monkeypatch.setattr("onnxprune.commands.prune._prune", None)
    expected = (
        f"onnxprune: {name}n: the weights go to a file beside it, whose name would be longer than the 255 bytes that "
        "the system takes; give a name of at most 237 bytes\n"
    )
    assert invoke("ext.onnx", "-o", f"{name}n", code=2) == expected


def test_where_nobody_knows_how_long_a_name_may_be_none_is_too_long(folder, monkeypatch):
    monkeypatch.delattr(os, "pathconf")
    publish.check_name(Path("n" * 300), ".data")


# -- weights that are gone -----------------------------------------------------------------------------------


def replaced(*options):
    result = CliRunner().invoke(cli, ["m.onnx", "-o", "m.onnx", "--force", "--no-latency", *options])
    assert result.exit_code == 0, result.stderr
    return result.stderr


def test_weights_that_are_removed_are_named(folder):
    external("m.onnx.data", "m.onnx")
    assert "onnxprune: removed old weights " in replaced()
    assert not Path("m.onnx.data").exists()
    assert replaced("--quiet") == ""


@pytest.mark.parametrize("copy", ["m.pb", "m.onnx.bak", "backup"])
def test_weights_that_a_copy_by_any_name_needs_stay(folder, copy):
    external("m.onnx.data", "m.onnx")
    shutil.copy("m.onnx", copy)
    assert "removed" not in replaced()
    onnx.load(copy)


def test_weights_stay_where_there_is_too_much_to_search(folder, monkeypatch):
    external("m.onnx.data", "m.onnx")
    monkeypatch.setattr("onnxprune.graph.files.write._SEARCHED", 1000)
    assert "removed" not in replaced()
    assert Path("m.onnx.data").exists()


def test_what_is_no_message_is_not_searched(folder, monkeypatch):
    external("m.onnx.data", "m.onnx")
    Path("notes").write_text("m.onnx.data " * 100)
    monkeypatch.setattr("onnxprune.graph.files.write._MESSAGE", 1000)
    assert "removed" in replaced()


def test_a_sweep_checks_the_names_of_weights(folder):
    external("w.bin")
    with pytest.raises(InputError, match=r"the weights go to a file beside it, whose name would be longer than"):
        SweepFolder(folder / "out", Reads(), force=False, external=True).check([SimpleNamespace(name="n" * 240)])


# -- all or nothing ----------------------------------------------------------------------------------------


def staged(names, force, done=lambda: None):
    """Write every name with its new contents."""
    with publish.staging(force, done) as staging:
        for name in names:
            staging.add(Path(name)).write_text(f"new {name}")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("force", [True, False])
def test_a_move_that_fails_takes_the_others_back(folder, monkeypatch, links, force):
    def no_links(*_):
        raise OSError

    def full(self, target, replace=Path.replace):
        if Path(target).name == "a" and self.name == "a":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    if force:
        Path("a").write_text("old a")
        Path("b").write_text("old b")
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    before = files(folder)
    if force or not links:
        monkeypatch.setattr(Path, "replace", full)
        expected = pytest.raises(OSError, match="No space left")
    else:
        expected = pytest.raises(InputError, match=EXISTS.format(f"{folder}/a"))
        monkeypatch.setattr(os, "link", lambda old, new, link=os.link: link(old, new) or Path("a").touch())
        before = {**before, "a": b""}  # made by another process meanwhile
    with expected:
        staged(["a", "b", "c"], force)
    assert files(folder) == before
    assert not list(folder.glob(".onnxprune*"))


def test_without_links_a_file_that_is_there_stays(folder, monkeypatch):
    def no_links(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    staged(["a"], force=False)
    assert Path("a").read_text() == "new a"
    with pytest.raises(InputError, match=EXISTS.format(f"{folder}/a")):
        staged(["a"], force=False)


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_a_signal_waits_until_all_is_in_place(folder):
    done = []

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        done.append(sorted(path.name for path in folder.glob("?")))

    with pytest.raises(KeyboardInterrupt):
        staged(["a", "b"], False, interrupt)
    assert done == [["a", "b"]]
    assert sorted(files(folder)) == ["a", "b", "model.onnx"]


def test_in_a_thread_no_signal_is_held(folder):
    thread = threading.Thread(target=staged, args=(["a"], False))
    thread.start()
    thread.join()
    assert Path("a").read_text() == "new a"


# -- processes of their own --------------------------------------------------------------------------------


def start(*args):
    command = [sys.executable, "-m", "onnxprune", *args, "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_leaves_nothing_behind(folder, name, code):
    """Once the hidden folder is there, a layer of this size is verified and timed for seconds."""
    large = dense("c = Relu(a)", "d = MatMul(c, q)", "b = Relu(d)", mid=2000, q=(2000, 2000))
    Path("slow.onnx").write_bytes(large.SerializeToString())
    before = files(folder)
    with start("slow.onnx", "-o", "small.onnx", "--report", "r.json", "--criterion", "l2") as process:
        wait_for(lambda: list(folder.glob(".onnxprune-*")), process)
        process.send_signal(getattr(signal, name))
        _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (code, "onnxprune: interrupted; nothing was written\n")
    assert files(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(before)


def test_one_of_two_runs_to_one_output_wins(folder):
    runs = [start("model.onnx", "-o", "small.onnx", "--report", f"{i}.json", "--no-latency") for i in range(2)]
    messages = [run.communicate(timeout=60)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2], messages
    loser = next(i for i, run in enumerate(runs) if run.returncode)
    assert "small.onnx exists; give another name, or --force" in messages[loser]
    assert sorted(files(folder)) == [f"{1 - loser}.json", "model.onnx", "small.onnx"]
