"""Tasks run here, in processes and on a cluster: in order, with the same results, and what goes wrong is said."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from onnxprune.algebra.threads import _openblas
from onnxprune.calibration.batches import calibration
from onnxprune.calibration.statistics import activations
from onnxprune.data.samples import load_data
from onnxprune.dependency.groups import groups
from onnxprune.dependency.trace import trace
from onnxprune.errors import InputError, ModelError, OptionError
from onnxprune.graph.files.read import load
from onnxprune.planning.choice import select_ratios
from onnxprune.planning.curves.measured import measure_curves
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import cuts, gather
from onnxprune.runtime.executors import ALONE, Workers, from_executor, sent, workers
from onnxprune.runtime.session import _options, threads_limited
from tests.commands.test_sweep import ALIKE, save_network

RNG = np.random.default_rng(0)


def scaled(job, task):
    return job * task


def failing(job, task):
    if task == job:
        raise ModelError(f"task {task} fails")
    return task


def dying(_job, _task):
    os.kill(os.getpid(), signal.SIGKILL)


def threads(_job, _task):
    return _options(0, frees=False).intra_op_num_threads


@pytest.fixture(scope="module")
def pair():
    with workers(2) as found:
        yield found


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A model with what its statistics and curves are made from; batches of two shapes."""
    path = save_network(tmp_path_factory.mktemp("model"))
    loaded = load(path)
    traced = trace(loaded)
    samples = load_data({"x": RNG.standard_normal((60, 3, 6, 6)).astype(np.float32)}, loaded.inputs)
    return traced, groups(traced), calibration(loaded, samples, "dense")


def test_results_come_in_order(pair):
    assert list(pair.map(scaled, 3, range(7))) == list(ALONE.map(scaled, 3, range(7))) == [0, 3, 6, 9, 12, 15, 18]


def test_here_a_task_begins_when_it_is_asked_for():
    results = ALONE.map(failing, 2, [0, 1, 2, 3])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ModelError, match="task 2 fails"):
        next(results)


def test_errors_of_tasks_are_raised(pair):
    with pytest.raises(ModelError, match="task 4 fails"):
        list(pair.map(failing, 4, range(6)))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_that_dies_is_said():
    with workers(2) as found, pytest.raises(InputError, match=r"a worker process died, .* give fewer --workers"):
        list(found.map(dying, None, range(3)))


def sleeping(job, _task):
    """Say that this worker works, and go on for a minute."""
    Path(job).write_text(str(os.getpid()))
    time.sleep(60)


def running(pid):
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def begin(pool, path):
    """Submit a task that sleeps, and return its process when it does."""
    pool.executor.submit(sleeping, path, 1)
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_an_interrupt_does_not_wait_for_tasks(tmp_path):
    start = time.monotonic()

    def interrupted():
        with workers(2) as pool:
            pids.append(begin(pool, tmp_path / "pid"))
            raise KeyboardInterrupt

    pids = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 55
    assert not running(pids[0])


CHILD = """
import sys, time
from pathlib import Path
from onnxprune.runtime.executors import workers
from tests.runtime.test_executors import begin
if __name__ == "__main__":
    with workers(2) as pool:
        begin(pool, Path(sys.argv[1]))
        time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, tmp_path / "child.py", tmp_path / "pid"], env=env) as process:
        deadline = time.monotonic() + 60
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pid = int((tmp_path / "pid").read_text())
        process.kill()
    while running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cores_are_shared_out(pair):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert set(pair.map(threads, None, range(3))) == {max(1, cores // 2)}


def test_what_0_threads_mean_within_a_block():
    outside = threads(None, None)
    with threads_limited(3):
        assert threads(None, None) == 3
        assert _options(2, frees=False).intra_op_num_threads == 2
        with threads_limited(0):  # changes nothing
            assert threads(None, None) == 3
    assert threads(None, None) == outside


_BOTH = threading.Barrier(2)


def blas_threads(_job, _task):
    """Return the threads of linear algebra, when both tasks are under way."""
    _BOTH.wait(60)
    return _openblas()[0]()


@pytest.mark.parametrize("fails", [False, True])
def test_an_executor_of_threads_leaves_linear_algebra_as_it_was(blas, fails):
    with ThreadPoolExecutor(2) as pool:
        if fails:
            with pytest.raises(ModelError):
                list(from_executor(pool).map(failing, 0, [0, 1]))
        else:
            assert list(from_executor(pool).map(blas_threads, None, [0, 1])) == [1, 1]
    assert blas() == 2


def test_both_kinds_of_workers_are_refused():
    with pytest.raises(OptionError, match="give one of the two"), workers(2, "tcp://127.0.0.1:1"):
        pass


def test_no_such_number_of_workers():
    with pytest.raises(OptionError, match="workers must be at least 1, got 0"), workers(0):
        pass


# -- models on their way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", [True, False])
def test_a_model_arrives_as_it_was_sent(tmp_path, near):
    model = load(save_network(tmp_path))
    arrived = pickle.loads(pickle.dumps(sent(model, Workers(ALONE.executor, near=near)))).open()
    assert (arrived.nodes, arrived.top, arrived.inputs) == (model.nodes, model.top, model.inputs)
    assert all(np.array_equal(arrived.array(name), model.array(name)) for name in model.constants)


def test_external_data_goes_by_its_path(tmp_path):
    path = save_network(tmp_path, external=True)
    going = sent(load(path), Workers(ALONE.executor, near=False))
    assert going.content is None
    assert load(path).array("w1").shape == going.open().array("w1").shape
    path.rename(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelError, match=r"the worker on .* cannot read the model, .* put it on storage that all"):
        going.open()


def test_another_model_at_the_path(tmp_path):
    path = save_network(tmp_path)
    going = sent(load(path), ALONE)
    other = save_network(tmp_path / "other", seed=1)
    other.replace(path)
    with pytest.raises(ModelError, match="reads another model at"):
        going.open()


# -- the same numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_curves_in_parts_are_those_of_one_run(seen, shards):
    traced, found, calibrated = seen
    asked = make_options(criterion="obs", round_to=1, min_units=1)
    wanted = cuts(traced, found, select_ratios(found, asked), asked)
    with ThreadPoolExecutor(shards) as pool:
        parted = measure_curves(traced, wanted, calibrated, workers=from_executor(pool))
    assert len(wanted) == 4
    assert parted == measure_curves(traced, wanted, calibrated, workers=ALONE)


@pytest.mark.parametrize("tapped", [1, 2**28])
def test_statistics_in_parts_are_those_of_one_run(seen, pair, tapped):
    traced, found, calibrated = seen
    able = [group for group in found if group.prunable]
    one = activations(traced, able, calibrated.batches, tapped_bytes=tapped)
    other = activations(traced, able, calibrated.batches, tapped_bytes=tapped, workers=pair)
    assert pickle.dumps(ALIKE(one)) == pickle.dumps(ALIKE(other))


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_evidence_is_the_same_in_processes(seen, pair, criterion):
    traced, found, calibrated = seen
    asked = make_options(criterion=criterion, round_to=1)
    chosen = select_ratios(found, asked)
    one, other = (gather(traced, found, chosen, asked, calibration=calibrated, workers=w) for w in (ALONE, pair))
    assert one.curves == other.curves
    assert all(np.array_equal(one.scores[name], other.scores[name]) for name in one.scores)


def test_no_temporary_file_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with workers(2) as found:
        assert list(found.map(scaled, 2, [1])) == [2]
        assert any(Path(tmp_path).iterdir())
    assert not any(Path(tmp_path).iterdir())
