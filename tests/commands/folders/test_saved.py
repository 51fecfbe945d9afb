"""A folder that is pruned, ended and gone on with: each network is kept by itself, until all are written."""

from __future__ import annotations

import json
import re
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.commands.folder import prune_files
from onnxprune.errors import InputError, OptionError
from onnxprune.graph.files.publish import resolved
from onnxprune.planning.options import make_options
from tests.commands.folders.test_handing import merged, samples
from tests.commands.rounds.test_in_rounds import CUT, TUNE, Ended, ending
from tests.commands.test_resume import Ended as EndedByNotes
from tests.commands.test_resume import ends_after
from tests.commands.ways.test_vocabulary import KEPT, network
from tests.support.build import model
from tests.support.cli import invoke
from tests.training.pairs import classifier, pictures

ROUNDS = {"rounds": 2, "tune": {**TUNE, "steps": 8}}


@cache
def narrow():
    """Return another classifier, a network of its own."""
    return model(
        "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, v1, c1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, v2, c2)",
        "d = Relu(c)", "e = GlobalAveragePool(d)", "f = Flatten(e)", "y = Gemm(f, v3, c3)",
        x="float[n,1,16,16] x", v1=(12, 1, 3, 3), c1=(12,), v2=(12, 12, 3, 3), c2=(12,), v3=(12, 4), c3=(4,),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write two networks, one of them in a folder within, and samples; tuning is saved after each step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onnxprune.training.tuning.saving.Saver.is_due", True)
    for name, proto in (("first", classifier()), ("sub/second", narrow())):
        for made in ("both", "samples"):
            (tmp_path / made / name).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(proto, tmp_path / "both" / f"{name}.onnx")
        np.savez(tmp_path / "samples" / f"{name}.npz", x=pictures(48))
    return tmp_path


def prune_here(folder, target="out", *, progress=lambda *_: None, targets=None, **more):
    options = make_options(targets=targets or {"macs": 0.4}, **CUT)
    return prune_files(
        folder / "both", folder / target, options, str(folder / "samples"), progress=progress, **{**ROUNDS, **more}
    )  # fmt: skip


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_run_that_was_ended_goes_on_to_the_same_bytes(folder):
    """It is ended in the second round of a network, in the first one of the next, and when both are done."""
    prune_here(folder, "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["both", "samples", "whole"]
    seen = []

    def run(until=None, step=None, **more):
        def progress(text, at=0, steps=0, /):
            seen.append(text)
            if until is not None:
                ending(until, step)(text, at)

        seen.clear()
        prune_here(folder, progress=progress, **more)

    with pytest.raises(Ended):
        run("first.onnx: round 2 of 2: tuning", 2)
    saved = folder / "out.checkpoint"
    own = ["round-1.json", "round-1.onnx", "run.json", "tuning-2.checkpoint"]
    assert kept(saved) == [f"first.onnx/{name}" for name in own]
    with pytest.raises(Ended):
        run("sub/second.onnx: round 1 of 2: tuning", 3, resume=True)
    assert not any(text.startswith("first.onnx: round 1") for text in seen)
    assert kept(saved)[4:] == ["sub/second.onnx/run.json", "sub/second.onnx/tuning-1.checkpoint"]
    with pytest.raises(Ended):
        run("sub/second.onnx: round 2 of 2: comparing outputs", resume=True)
    assert not (folder / "out").exists()
    run(resume=True)
    assert not any("round 1 of 2" in text for text in seen)
    assert contents(folder / "out") == contents(folder / "whole")
    assert sorted(path.name for path in folder.iterdir()) == ["both", "out", "samples", "whole"]


def test_what_is_there_asks_for_resume_or_force(folder):
    with pytest.raises(Ended):
        prune_here(folder, progress=ending("first.onnx: round 2 of 2"))
    place = resolved(folder / "out.checkpoint") / "first.onnx"
    message = f"{place} holds a finished round: go on from there with --resume, or remove it with --force"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        prune_here(folder)
    assert (place / "round-1.onnx").exists()
    with pytest.raises(OptionError, match=r"^first\.onnx: .* is a checkpoint of another run: rounds is 3 and was 2$"):
        prune_here(folder, rounds=3, resume=True)
    with pytest.raises(Ended):
        prune_here(folder, force=True, progress=ending("first.onnx: round 1 of 2: tuning", 3))  # from the beginning
    assert kept(place) == ["run.json", "tuning-1.checkpoint"]


def test_files_of_others_stay(folder):
    saved = folder / "saved"
    (saved / "first.onnx").mkdir(parents=True)
    (saved / "first.onnx" / "own.txt").write_text("")
    place = saved / "first.onnx"
    message = f"{place} is in the way: checkpoints of this run go there; give another --checkpoint"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        prune_here(folder, checkpoint=saved)
    (saved / "first.onnx").rename(saved / "others")
    prune_here(folder, checkpoint=saved)
    assert kept(saved) == ["others/own.txt"]
    assert (folder / "out" / "first.onnx").exists()


def test_there_is_nothing_to_resume(folder):
    message = f"{resolved(folder / 'out.checkpoint')}: there is no checkpoint to resume; leave out --resume to begin"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        prune_here(folder, resume=True)
    assert sorted(path.name for path in folder.iterdir()) == ["both", "samples"]


@pytest.mark.parametrize(("place", "where"), [("both/saved", "input"), ("out", "output"), ("both", "input")])
def test_a_checkpoint_has_a_place_of_its_own(folder, place, where):
    message = f"{place}: the checkpoint would lie in the {where}; give it a place beside that"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        prune_here(folder, checkpoint=Path(place))


def test_a_report_lies_beside_the_checkpoint(folder):
    message = "saved/report.json: the report would lie in the checkpoint or is it; give it a place beside that"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        prune_here(folder, checkpoint=Path("saved"), report_path=Path("saved/report.json"))


def test_a_run_that_fails_before_there_is_anything_to_keep_leaves_nothing(folder):
    np.savez(folder / "samples" / "first.npz", x=np.full((48, 1, 16, 16), np.nan, np.float32))
    with pytest.raises(InputError, match=r"^first\.onnx: "):
        prune_here(folder, tune=None)
    assert sorted(path.name for path in folder.iterdir()) == ["both", "samples"]


def test_a_body_that_leads_goes_on_from_its_notes(tmp_path, monkeypatch):
    """It reads the samples of its file; those it takes are made of them in each run."""
    (tmp_path / "model").mkdir()
    onnx.save(merged(), tmp_path / "model" / "decoder.onnx")
    options = make_options(depth=0.3, change_io=True, latency=False)
    run = partial(prune_files, tmp_path / "model", options=options, data=samples(), progress=lambda *_: None)
    run(tmp_path / "whole")
    saved = tmp_path / "saved"
    with monkeypatch.context() as patched:
        every = ends_after(patched, 10**9)
        run(tmp_path / "kept", checkpoint=saved)
    with monkeypatch.context() as patched:
        before = ends_after(patched, len(every) // 2)
        with pytest.raises(EndedByNotes):
            run(tmp_path / "out", checkpoint=saved)
    with monkeypatch.context() as patched:
        after = ends_after(patched, 10**9)
        run(tmp_path / "out", checkpoint=saved, resume=True)
    assert before + after == every
    assert contents(tmp_path / "out") == contents(tmp_path / "kept") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "model", "out", "whole"]


def test_a_file_that_loses_tokens_alone_goes_on(tmp_path):
    """It is cut in a second turn, under other options than the first one."""
    (tmp_path / "model").mkdir()
    onnx.save(network(), tmp_path / "model" / "words.onnx")
    table = {"x": "int64[n,s] ids", "y": "float[n,s,6] y", "table": (20, 6)}
    onnx.save(model("y = Gather(table, ids)", **table), tmp_path / "model" / "plain.onnx")
    options = make_options(ratio=0.5, criterion="l2", latency=False, vocabulary=KEPT)
    run = partial(prune_files, tmp_path / "model", options=options)
    run(tmp_path / "whole", progress=lambda *_: None)
    saved, seen = tmp_path / "saved", []

    def progress(text, at=0, steps=0, /):
        seen.append(text)
        if seen.count(text) == 2 and text.startswith("plain.onnx"):
            raise Ended

    with pytest.raises(Ended):
        run(tmp_path / "out", progress=progress, checkpoint=saved)
    assert "words.onnx/run.json" in kept(saved)
    run(tmp_path / "out", progress=lambda *_: None, checkpoint=saved, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out", "whole"]


def test_the_command_goes_on(folder):
    asked = ["prune", "both", "-o", "out", "--ratio", "0.5", "--criterion", "l2", "--no-latency", "--rounds", "2"]
    asked += ["--data", "samples", "--checkpoint", "saved"]
    with pytest.raises(Ended):
        prune_files(
            Path("both"), Path("out"), make_options(ratio=0.5, criterion="l2", latency=False), "samples", rounds=2,
            checkpoint=Path("saved"), progress=ending("sub/second.onnx: round 2 of 2"),
        )  # fmt: skip
    names = {name for name in kept(folder / "saved") if "round-" in name}
    assert names == {
        f"{network}.onnx/round-1.{kind}" for network in ("first", "sub/second") for kind in ("json", "onnx")
    }
    invoke(*asked, "--resume", "--report", "report.json")
    assert not (folder / "saved").exists()
    recipe = json.loads((folder / "report.json").read_text())["recipe"]
    assert not {"resume", "checkpoint"} & recipe.keys()
