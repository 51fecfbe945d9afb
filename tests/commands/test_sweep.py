"""Families: members equal those of one process, on a cluster that loses a worker too; what is finished stays."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.cli.group import cli
from onnxprune.commands import prune, sweep
from onnxprune.commands.records import made_from
from onnxprune.commands.steps import recover
from onnxprune.commands.sweeps import recovery as sweep_recovery
from onnxprune.errors import InputError, NothingToPrune, OptionError, VerificationError
from onnxprune.graph.files.publish import stamps
from onnxprune.planning.curves import measured as curves
from onnxprune.planning.options import make_options
from onnxprune.runtime import machine
from onnxprune.runtime.executors import workers
from tests.support.build import model

VALUES = (0.8, 0.6, 0.4)
DATA = {"x": np.random.default_rng(1).standard_normal((64, 3, 6, 6)).astype(np.float32)}


def ALIKE(seen):  # noqa: N802 - reads as a word of the tests
    """Return what was seen as plain values."""
    return {
        name: [
            [getattr(each, field).tolist() for field in ("mean", "square", "absolute", "positive")] for each in found
        ]
        for name, found in seen.items()
    }


def save_network(folder, external=False, seed=0):
    """Save a network of several convolutions with a residual stream; return its path."""
    rng = np.random.default_rng(seed)
    shapes = {
        "w1": (16, 3, 3, 3), "w2": (24, 16, 3, 3), "w3": (16, 24, 1, 1), "w4": (20, 16, 3, 3), "w5": (16, 20, 1, 1),
        "w6": (16, 32), "w7": (32, 5),
    }  # fmt: skip
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in shapes.items()}
    proto = model(
        "a = Conv<pads=[1,1,1,1]>(x, w1)", "b = Relu(a)", "c = Conv<pads=[1,1,1,1]>(b, w2)", "d = Relu(c)",
        "e = Conv(d, w3)", "f = Add(b, e)", "g = Conv<pads=[1,1,1,1]>(f, w4)", "h = Relu(g)", "i = Conv(h, w5)",
        "j = Add(f, i)", "k = GlobalAveragePool(j)", "l = Flatten(k)", "m = MatMul(l, w6)", "n = Relu(m)",
        "y = MatMul(n, w7)", **weights,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(proto, path, save_as_external_data=external, location="net.weights", size_threshold=0)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_network(tmp_path_factory.mktemp("network"))


def made(network, out, values=VALUES, kind="macs", data=DATA, resume=False, force=False, by=None, **options):
    """Make a family; return it."""
    chosen = make_options(**{"latency": False, "round_to": 1, **options})
    more = {} if by is None else {"workers": by}
    return sweep.make_family(network, out, kind, values, chosen, data=data, resume=resume, force=force, **more)


def contents(found):
    """Return the bytes of all models, and all plans."""
    reports = [json.loads(path.with_suffix(".json").read_text()) for path in found.members]
    plans = [[group["kept_units"] for group in report["groups"]] for report in reports]
    return [path.read_bytes() for path in found.members], plans, [report["curves"] for report in reports]


@pytest.fixture(scope="module")
def serial(network, tmp_path_factory):
    return made(network, tmp_path_factory.mktemp("serial") / "out")


# -- workers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Four worker processes, each watched by a nanny that starts it anew when it dies."""
    distributed = pytest.importorskip("distributed")
    arguments = {"n_workers": 4, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**arguments) as found:
        yield found.scheduler_address


def once(marker):
    """Whether this is the first call of all processes."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        return True
    return False


def dying_curves(marker, job, which):
    """Measure curves; the worker that gets a later part first dies."""
    if which.start and once(marker):
        os.kill(os.getpid(), signal.SIGKILL)
    return curves_of(job, which)


def dying_refit(marker, job, task):
    """Refit; the worker that begins first dies, while the others refit."""
    if once(marker):
        os.kill(os.getpid(), signal.SIGKILL)
    return recover_one(job, task)


curves_of, recover_one = curves._curves_of, sweep_recovery._recover_one


@pytest.mark.parametrize("where", ["curves", pytest.param("refits", marks=pytest.mark.soak)])
def test_a_cluster_that_loses_a_worker_makes_the_same_family(network, serial, cluster, where, tmp_path, monkeypatch):
    marker = str(tmp_path / "died")
    if where == "curves":
        monkeypatch.setattr(curves, "_curves_of", functools.partial(dying_curves, marker))
    else:
        monkeypatch.setattr("onnxprune.commands.sweeps.recovery._recover_one", functools.partial(dying_refit, marker))
    with workers(scheduler=cluster) as found:
        assert found.count > 1
        other = made(network, tmp_path / "out", by=found)
    assert Path(marker).exists()
    assert contents(other) == contents(serial)


def test_processes_make_the_same_family(network, serial, tmp_path):
    with workers(3) as found:
        assert contents(made(network, tmp_path / "out", by=found)) == contents(serial)


def test_in_python(network, serial, tmp_path):
    given = {"data": DATA, "latency": False, "round_to": 1}
    with ThreadPoolExecutor(2) as pool:
        other = onnxprune.sweep(network, tmp_path / "a", "macs", VALUES, executor=pool, **given)
    assert contents(other) == contents(serial)
    one = onnxprune.sweep(onnx.load(network), str(tmp_path / "b"), "macs", [0.6], **given)
    assert [path.name for path in one.members] == ["model_macs_0.6.onnx"]
    assert one.members[0].read_bytes() == serial.members[1].read_bytes()


# -- members ---------------------------------------------------------------------------------------------------


def test_members_meet_their_targets_and_are_told(serial):
    summary = json.loads((serial.folder / "sweep.json").read_text())
    assert summary == serial.summary
    assert [member["value"] for member in summary["members"]] == list(VALUES)
    for value, member in zip(VALUES, summary["members"], strict=True):
        assert 0.5 * value < member["macs"] / summary["input"]["macs"] <= value
        assert member["path"] == f"net_macs_{value:g}.onnx"
        report = json.loads((serial.folder / member["report"]).read_text())
        assert report["options"]["targets"] == [["macs", value]]
        assert report["verification"]["passed"]
        assert report["output"]["path"] == str(serial.folder / member["path"])
        assert member["sha256"] == report["output"]["sha256"]


def test_a_member_is_what_prune_makes(network, serial):
    """But for the last bits: `prune` gives linear algebra all threads."""
    for value, path in zip(VALUES, serial.members, strict=True):
        alone = prune.prune(network, data=DATA, targets={"macs": value}, latency=False, round_to=1)
        member = onnx.load(path)
        assert [node.name for node in alone.model.graph.node] == [node.name for node in member.graph.node]
        for one, other in zip(alone.model.graph.initializer, member.graph.initializer, strict=True):
            arrays = onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other)
            np.testing.assert_allclose(*arrays, rtol=1e-4, atol=1e-5)


def test_ratios_and_parameters(network, tmp_path):
    ratios = made(network, tmp_path / "a", (0.2, 0.5), "ratio", criterion="l2", scope="group", reconstruct=False)
    kept = [sum(group["kept"] for group in json.loads(path.with_suffix(".json").read_text())["groups"])
            for path in ratios.members]  # fmt: skip
    assert kept[1] < kept[0]
    assert "ratio" not in ratios.summary["options"]
    found = made(network, tmp_path / "b", (0.5, 7001), "params", targets={"macs": 0.9}).summary
    assert [member["path"] for member in found["members"]] == ["net_params_0.5.onnx", "net_params_7001.onnx"]
    assert found["members"][1]["params"] <= 7001
    assert found["options"]["targets"] == [["macs", 0.9]]  # and not what differs
    assert found["options"]["latency"] is False


def test_globs_have_curves_of_their_own(network, tmp_path):
    found = made(network, tmp_path, (0.2, 0.5), "ratio", ratios={"w2": 0.5})
    assert len(list((tmp_path / ".sweep").glob("curves-*.json"))) == 2
    assert len(found.members) == 2


def test_the_plot_and_the_page(serial):
    root = ET.fromstring((serial.folder / "sweep.svg").read_text())
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) >= len(VALUES)
    page = (serial.folder / "sweep.html").read_text()
    assert all(path.name in page for path in serial.members)


def test_external_data_is_written_beside_each_member(tmp_path):
    path = save_network(tmp_path / "in", external=True)
    with workers(2) as found:
        family_of = made(path, tmp_path / "out", (0.6,), by=found)
    (member,) = family_of.members
    assert member.with_name(f"{member.name}.data").exists()
    before = stamps([member])
    made(path, tmp_path / "out", (0.6,))
    assert stamps([member]) == before


# -- again -----------------------------------------------------------------------------------------------------


def counted(monkeypatch):
    """Return what is called from now on: names of steps."""
    calls = []

    def counting(name, function):
        def call(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(sweep, name, call)

    for name in ("prepare", "score", "finish"):
        counting(name, getattr(sweep, name))
    return calls


def interrupted(monkeypatch, after):
    """Let a run be interrupted when so many members are finished."""
    finish, done = sweep.finish, []

    def stopping(*args, **kwargs):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(finish(*args, **kwargs))
        return done[-1]

    monkeypatch.setattr("onnxprune.commands.sweep.finish", stopping)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_goes_on_where_it_was_interrupted(network, serial, tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch:
        interrupted(patch, after)
        with pytest.raises(KeyboardInterrupt):
            made(network, tmp_path)
    assert len(list(tmp_path.glob("*.onnx"))) == after
    assert not (tmp_path / "sweep.json").exists()
    stays = stamps(tmp_path.glob("*.onnx"))
    calls = counted(monkeypatch)
    found = made(network, tmp_path, resume=True)
    assert calls == ["prepare", *["finish"] * (3 - after)]  # and no new curves
    assert stamps(stays) == stays
    assert contents(found) == contents(serial)
    assert not list(tmp_path.glob(".onnxprune-*"))


def test_what_is_finished_is_not_made_again(network, tmp_path, monkeypatch):
    first = made(network, tmp_path, (0.6,))
    calls = counted(monkeypatch)
    assert made(network, tmp_path, (0.6,)).summary == first.summary
    assert calls == []
    made(network, tmp_path, (0.6, 0.5))
    assert calls == ["prepare", "finish"]


MEMBER = ["net_macs_0.6.onnx", "net_macs_0.6.json", ".sweep/net_macs_0.6.json"]
DAMAGE = [None, b"", b"{", b"[" * 100_000, b'{"key": 0, "made_from": 1, "sha256": 2}']


@pytest.mark.parametrize("file", MEMBER)
@pytest.mark.parametrize(
    "content", [pytest.param(each, marks=() if each in DAMAGE[::4] else pytest.mark.soak) for each in DAMAGE]
)
def test_half_a_member_does_not_count(network, tmp_path, monkeypatch, file, content):
    first = contents(made(network, tmp_path, (0.6,)))
    path = tmp_path / file
    path.unlink() if content is None else path.write_bytes(content)
    calls = counted(monkeypatch)
    assert contents(made(network, tmp_path, (0.6,), force=file.startswith(".sweep") and content is None)) == first
    assert calls == ["prepare", "finish"]


@pytest.mark.parametrize("content", ["", '{"scores": {}, "curves": 3}'])
def test_curves_that_cannot_be_read_are_made_anew(network, tmp_path, monkeypatch, content):
    first = contents(made(network, tmp_path, (0.6,)))
    (cache,) = (tmp_path / ".sweep").glob("curves-*.json")
    cache.write_text(content)
    calls = counted(monkeypatch)
    assert contents(made(network, tmp_path, (0.6, 0.5)))[0][0] == first[0][0]
    assert calls == ["prepare", "score", "finish"]


def test_another_option_makes_members_anew(network, tmp_path, monkeypatch):
    made(network, tmp_path, (0.6,))
    calls = counted(monkeypatch)
    found = made(network, tmp_path, (0.6,), seed=1)
    assert calls == ["prepare", "score", "finish"]
    assert json.loads(found.members[0].with_suffix(".json").read_text())["options"]["seed"] == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [({"seed": 1}, "option seed"), ({"data": {"x": DATA["x"][:32]}}, "data"), ({"min_units": 3}, "option min_units")],
)
def test_resume_refuses_members_of_others(network, tmp_path, other, said):
    made(network, tmp_path, (0.6,))
    message = f"net_macs_0.6.onnx was made from another {said}: give another folder, or leave out --resume"
    with pytest.raises(InputError, match=message):
        made(network, tmp_path, (0.6,), resume=True, **other)


def test_a_member_that_was_timed_is_of_one_machine(network, tmp_path, monkeypatch, steady):
    made(network, tmp_path, (0.6,), latency=True)
    record = json.loads((tmp_path / ".sweep" / "net_macs_0.6.json").read_text())["made_from"]
    assert record["machine"] == json.loads(json.dumps(machine.machine()))
    assert (record["option threads"], record["option provider"], record["option batch"]) == (1, "cpu", 1)
    assert "option profile_seconds" not in record
    monkeypatch.setattr("onnxprune.commands.records.made_from.machine", lambda: {"cpu": "another"})
    with pytest.raises(InputError, match=r"net_macs_0.6.onnx was made from another machine: give another folder"):
        made(network, tmp_path, (0.6,), latency=True, resume=True)
    calls = counted(monkeypatch)
    made(network, tmp_path, (0.6,), latency=True)
    assert calls == ["prepare", "finish"]  # and no new curves


def test_options_without_effect_make_nothing_anew(network, tmp_path, monkeypatch):
    made(network, tmp_path, (0.6,))
    calls = counted(monkeypatch)
    monkeypatch.setattr("onnxprune.commands.records.made_from.machine", lambda: {"cpu": "another"})
    made(network, tmp_path, (0.6,), resume=True, threads=2, batch=3, profile_seconds=1.0)
    assert calls == []


@pytest.mark.parametrize(
    ("options", "has_data", "idle"),
    [
        ({"latency": False}, False, {"threads", "batch", "provider", "profile_seconds"}),
        ({"latency": False}, True, {"threads", "batch", "profile_seconds"}),
        ({"latency": False, "eval_data": "d.npz"}, False, {"threads", "batch", "profile_seconds"}),
        ({}, False, {"profile_seconds"}),
        ({"latency": False, "targets": {"memory": 0.5}}, False, set()),
        ({"latency": False, "round_to": "auto"}, False, set()),
    ],
)
def test_what_a_member_depends_on(options, has_data, idle):
    chosen = make_options(**options)
    found = made_from.effective(chosen, has_data)
    assert {f"option {name}" for name in chosen.to_dict()} - set(found) == {f"option {name}" for name in idle}
    assert ("machine" in found) == ("threads" not in idle)


def test_files_of_others_are_not_replaced(network, tmp_path):
    mine = tmp_path / "net_macs_0.6.onnx"
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"net_macs_0\.6\.onnx exists"):
        made(network, tmp_path, (0.6,))
    assert mine.read_text() == "mine"
    made(network, tmp_path, (0.6,), force=True)
    assert mine.read_bytes() != b"mine"


def test_a_summary_of_others_is_not_replaced(network, tmp_path):
    (tmp_path / "sweep.json").write_text("mine")
    with pytest.raises(InputError, match=r"sweep\.json exists"):
        made(network, tmp_path, (0.6,))


# -- what goes wrong -------------------------------------------------------------------------------------------


def test_a_target_that_cannot_be_reached_is_said_first(network, tmp_path):
    with pytest.raises(OptionError, match=r"net_macs_0.01: target macs=0.01 \(at best 0"):
        made(network, tmp_path, (0.8, 0.01))
    assert not list(tmp_path.glob("*.onnx"))


def test_a_member_that_loses_nothing(network, tmp_path):
    with pytest.raises(NothingToPrune, match=r"net_ratio_0: nothing to prune"):
        made(network, tmp_path, (0.0,), "ratio", criterion="l2", scope="group")


def test_a_member_that_the_original_meets_already_stops_no_other(network, tmp_path, monkeypatch):
    found = made(network, tmp_path, ("1G", 0.6, 1))
    assert [path.name for path in found.members] == ["net_macs_0.6.onnx"]
    whys = ["nothing has to go: the model meets macs=1G already", "nothing has to go: the model meets macs=1 already"]
    assert found.summary["without_model"] == [
        {"value": value, "why": why} for value, why in zip(("1G", 1), whys, strict=True)
    ]
    assert json.loads((tmp_path / "sweep.json").read_text()) == found.summary
    assert all(f"<p>macs {value}: no model, nothing has to go" in (tmp_path / "sweep.html").read_text()
               for value in ("1G", 1))  # fmt: skip
    calls = counted(monkeypatch)
    assert made(network, tmp_path, ("1G", 0.6, 1), resume=True).summary == found.summary
    assert calls == []
    made(network, tmp_path, ("1G", 0.6), seed=1)  # what was noted holds for the same options alone
    assert calls == ["prepare", "score", "finish"]


def test_that_nothing_has_to_go_is_not_remembered_where_it_was_measured(network, tmp_path, monkeypatch):
    """The latencies of two models differ by what else the machine does."""

    def fractions(asked, evidence, speed, progress):
        if dict(asked.options.targets)["latency"] == "20ms":
            raise NothingToPrune("nothing has to go: the model meets latency=20ms already")
        macs = dataclasses.replace(asked, options=dataclasses.replace(asked.options, targets=(("macs", 0.6),)))
        return decide(macs, evidence, speed, progress)

    decide = sweep.decide
    monkeypatch.setattr("onnxprune.commands.sweep.profile", lambda *_: None)
    monkeypatch.setattr("onnxprune.commands.sweep.decide", fractions)
    found = made(network, tmp_path, ("20ms", 0.5), "latency")
    assert [member["value"] for member in found.summary["members"]] == [0.5]
    assert [each["value"] for each in found.summary["without_model"]] == ["20ms"]
    calls = counted(monkeypatch)
    assert made(network, tmp_path, ("20ms", 0.5), "latency").summary == found.summary
    assert calls == ["prepare"]


def test_what_is_in_the_way_of_a_note_is_not_replaced(network, tmp_path):
    mine = tmp_path / "net_macs_1.onnx"
    made(network, tmp_path, (1, 0.6))
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"net_macs_1\.onnx exists"):
        made(network, tmp_path, (1, 0.6), seed=1)


def test_members_that_are_met_all(network, tmp_path):
    for _ in range(2):
        with pytest.raises(NothingToPrune, match=r"^net_macs_1G: nothing has to go: .*; net_macs_1: nothing has to go"):
            made(network, tmp_path, ("1G", 1))
    assert not (tmp_path / "sweep.json").exists()


def test_a_member_that_fails_its_proof_is_not_written(network, tmp_path, monkeypatch):
    """Whatever workers send: what they say of weights is put into the file and proven here, and it must be finite."""

    def broken(*args, **kwargs):
        contents, fits = recover.recover(*args, **kwargs)
        return {name: array * np.nan for name, array in contents.items()}, fits

    monkeypatch.setattr("onnxprune.commands.sweeps.recovery.recover", broken)
    with pytest.raises((VerificationError, InputError)):
        made(network, tmp_path, (0.6,))
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("kind", "values", "options", "message"),
    [
        ("macs", (), {}, "macs needs values, such as"),
        ("macs", (0.6, 0.60), {}, "macs 0.6 is given twice"),
        ("macs", (0.6,), {"targets": {"macs": 0.5}}, "target says the same as the values"),
        ("ratio", (0.6,), {"targets": {"macs": 0.5}}, "target says the same as the values"),
        ("flops", (0.6,), {}, "kind"),
        ("macs", (1.5,), {}, "target macs"),
    ],
)
def test_values_that_are_none(network, tmp_path, kind, values, options, message):
    with pytest.raises(OptionError, match=message):
        made(network, tmp_path / "out", values, kind, **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file(network, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: the folder cannot be made"):
        made(network, tmp_path / "out", (0.6,))


# -- the command -----------------------------------------------------------------------------------------------


def run(*args):
    return CliRunner().invoke(cli, ["sweep", *map(str, args)])


def test_the_command(network, tmp_path, steady):
    data = tmp_path / "d.npz"
    np.savez(data, **DATA, labels=np.arange(64) % 5)
    given = (network, "--data", data, "--macs", "0.8, 0.6", "--round-to", "1", "-o", tmp_path / "out")
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert "net_macs_0.6.onnx" in result.output
    assert "0.500" in result.output  # of the latency, see `steady`
    assert "accuracy in %" in result.output
    assert "2 → 1" in result.output
    met = run(*given[:3], "--macs", "0.8,1000000000", *given[5:])
    assert "macs 1000000000: no model, nothing has to go: the model meets macs=1000000000 already" in met.output
    alone = run(*given[:3], "--macs", "1000000000", *given[5:])
    assert (alone.exit_code, "net_macs_1000000000: nothing has to go" in alone.stderr) == (3, True)
    again = run(*given, "--json")
    assert [member["value"] for member in json.loads(again.stdout)["members"]] == [0.8, 0.6]
    assert json.loads(again.stdout)["members"][0]["latency"]["speedup"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --latency, --memory, --size, --macs, --params, --kv-cache, --ratios, got none"),
        (("--macs", "0.5", "--params", "0.5"), "got --macs and --params"),
        (("--macs", "0.5", "--workers", "0"), "--workers must be at least 1, got 0"),
        (
            ("--macs", "half"),
            "onnxprune: --macs takes a fraction of the original up to 1, a whole number of macs above 1,",
        ),
        (("--kv-cache", "0.5,x"), "onnxprune: --kv-cache takes a fraction of the original up to 1,"),
        (("--macs", "0.5", "--ratio", "0.3"), "--ratio takes GLOB=NUMBER here"),
    ],
)
def test_options_that_are_none(network, tmp_path, options, message):
    result = run(network, *options, "-o", tmp_path / "out", "--quiet")
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_data_quality_is_not_told(network, tmp_path):
    found = made(network, tmp_path, (0.6,), data=None)
    assert "nothing is known of quality" in (tmp_path / "sweep.svg").read_text()
    assert found.summary["members"][0]["fidelity"] is None
