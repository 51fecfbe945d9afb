"""`--tie`: a weight that is held twice is stored once in what is written, told of, and proven like any cut."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.dependency.cost import Counter
from onnxprune.dependency.trace import trace
from onnxprune.errors import OptionError
from onnxprune.graph.files.read import load
from onnxprune.graph.files.write import foreseen
from onnxprune.graph.forms.tied import stored_once, twins
from onnxprune.report.prune import prune_tables
from tests.support.build import model
from tests.support.cli import invoke
from tests.support.schema import follows_the_schema

TABLE = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)


def language():
    """A token table, a feed-forward network that is added to the stream, and the table again, transposed."""
    rng = np.random.default_rng(1)
    return model(
        "e = Gather(table, ids)", "u = MatMul(e, up)", "r = Relu(u)", "d = MatMul(r, down)", "h = Add(e, d)",
        "y = MatMul(h, head)", x="int64[n,s] ids", table=TABLE, head=TABLE.T.copy(),
        up=rng.standard_normal((64, 256)).astype(np.float32), down=rng.standard_normal((256, 64)).astype(np.float32),
    )  # fmt: skip


def pruned(**options):
    return onnxprune.prune(language(), latency=False, **options)


def lines(result):
    return [each for each in prune_tables(result.report) if isinstance(each, str)]


@pytest.mark.parametrize(("ignore", "hidden"), [(["table"], 64), ([], 48)])
def test_it_is_stored_once_and_proven(ignore, hidden):
    result = pruned(ratio=0.25, tie=True, ignore=ignore, criterion="l2")
    follows_the_schema(json.loads(json.dumps(result.report)))
    weights = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    assert weights == {"table": (300, hidden), "up": (hidden, 192), "down": (192, hidden)}
    assert result.report["tied"]["stored_once"]
    assert len(result.report["tied"]["twins"]) == 1
    assert result.report["input"]["params"] == 2 * 300 * 64 + 2 * 64 * 256  # as the file has them
    assert result.report["output"]["params"] == 300 * hidden + 2 * hidden * 192
    assert result.report["verification"]["passed"]
    assert "head holds what table holds, transposed: stored once, which saves 76.80 kB of the original" in lines(result)


def test_without_it_the_run_says_what_it_would_save():
    result = pruned(ratio=0.25)
    assert len(result.model.graph.initializer) == 4
    said = "head holds what table holds, transposed: 76.80 kB of the original are stored twice; --tie stores them once"
    assert said in lines(result)


def test_where_nothing_is_held_twice_the_run_says_so():
    proto = language()
    once = pruned(ratio=0.25, tie=True, ignore=["table"], criterion="l2").model
    result = onnxprune.prune(once, 0.25, tie=True, criterion="l2", latency=False)
    assert result.report["tied"] == {"stored_once": False, "twins": []}
    said = "no weight of 65.54 kB or more is held twice: there was nothing to store once"
    assert said in lines(result)
    assert said not in lines(onnxprune.prune(once, 0.25, criterion="l2", latency=False))
    assert said not in lines(onnxprune.prune(proto, 0.25, tie=True, criterion="l2", latency=False))


@pytest.mark.parametrize("tie", [True, False])
def test_a_file_learns_by_the_report_of_its_cut(tie):
    """Where twins were stored once, the groups of the report are those of the teacher with twins stored once."""
    pytest.importorskip("torch")
    result = pruned(ratio=0.25, tie=tie, criterion="l2")
    ids = np.random.default_rng(3).integers(0, 300, (12, 6))
    tuned = onnxprune.tune(result.model, teacher=language(), cut=result.report, steps=1, rate=1e-4, data={"ids": ids})
    assert tuned.report["proof"]["passed"]


def test_targets_are_those_of_the_file_as_it_was():
    result = pruned(targets={"params": 0.7}, tie=True)
    kept = result.report["output"]["params"] / result.report["input"]["params"]
    assert 0.65 < kept <= 0.7  # 0.73 without twins, so little is cut
    assert onnxprune.prune(language(), latency=False, targets={"params": 0.7}).report["output"]["params"] > 0


def test_what_is_stored_once_is_not_counted_as_kept():
    """Else as much more is cut, in vain."""
    model = load(language())
    once = stored_once(model, twins(model))
    counter, written = Counter(trace(once)), foreseen(once.proto, once.folder)
    assert counter.before["params"] == model.stored_params > counter.count("params", {}) == written.params
    assert counter.before["size"] == model.size_bytes()
    assert counter.count("size", {}) == pytest.approx(written.size_bytes, abs=100)  # names


def test_targets_are_met_closely():
    result = pruned(targets={"params": 0.5}, tie=True)
    assert 0.49 < result.report["output"]["params"] / result.report["input"]["params"] <= 0.5


def test_a_sweep_refuses_it(tmp_path):
    source = tmp_path / "m.onnx"
    onnx.save(language(), source)
    with pytest.raises(OptionError, match="tie has no effect in a sweep, which cuts widths alone"):
        onnxprune.sweep(source, tmp_path / "out", "macs", [0.8], tie=True)


def test_depth_and_the_command_line(tmp_path):
    source = tmp_path / "m.onnx"
    onnx.save(language(), source)
    target, report_path = str(tmp_path / "o.onnx"), str(tmp_path / "r.json")
    done = invoke("prune", str(source), "-o", target, "--tie", "--without", "d", "--report", report_path)
    report = json.loads((tmp_path / "r.json").read_text())
    follows_the_schema(report)
    assert report["output"]["params"] == 300 * 64
    assert report["input"]["params"] == 2 * 300 * 64 + 2 * 64 * 256
    assert "stored once" in done.output
