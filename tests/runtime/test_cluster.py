"""Dask clusters: what is no scheduler, what is gone midway, what differs at the workers, each told in a sentence."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from onnxprune.errors import InputError, ModelError, OptionError
from onnxprune.runtime import cluster as module
from onnxprune.runtime.executors import workers

LOCAL = {"processes": False, "dashboard_address": ":0"}


@pytest.fixture
def soon(monkeypatch):
    """What does not answer is given up soon."""
    for name, seconds in {"CONNECT_S": 0.5, "LOST_S": 0.3, "_LOOK_S": 0.1}.items():
        monkeypatch.setattr(module, name, seconds)


@pytest.fixture(scope="module")
def local():
    """A cluster in this process, with a worker."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **LOCAL) as cluster:
        yield cluster


def refused(address, message):
    with pytest.raises(OptionError, match=message), workers(scheduler=address):
        pass


def scaled(job, task):
    return job * task


def failing(job, _task):
    raise job


# -- addresses ---------------------------------------------------------------------------------------------


def test_without_dask_the_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused("tcp://127.0.0.1:1", re.escape("scheduler needs Dask: pip install 'onnxprune[dask]'"))


def test_a_scheduler_that_does_not_answer(soon):
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        refused(address, f"scheduler {address} cannot be reached within 0.5 s: ")


def test_a_port_that_is_silent(soon):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        refused(address, f"scheduler {address} cannot be reached within 0.5 s: no answer$")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, (2**62).to_bytes(8, "little"), b""]
)
def test_a_stranger_at_the_port(soon, answer):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        address = f"tcp://127.0.0.1:{stranger.getsockname()[1]}"

        def talk():
            with stranger.accept()[0] as connection:
                connection.sendall(answer)

        threading.Thread(target=talk, daemon=True).start()
        refused(address, f"scheduler {address} cannot be reached within 0.5 s: ")


@pytest.mark.parametrize(
    "address", ["", "nonsense://x", "tcp://127.0.0.1", "/etc/passwd", "inproc://x", "tls://127.0.0.1:1", "tcp://[::1"]
)
def test_an_address_that_is_none(soon, address):
    refused(address, f"scheduler {re.escape(address)} cannot be reached within 0.5 s: ")


def test_a_worker_is_no_scheduler(local):
    address = next(iter(local.scheduler_info["workers"]))
    refused(address, f"scheduler {re.escape(address)} (is no scheduler of Dask, but a|cannot be reached)")


def test_a_cluster_without_workers():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, **LOCAL) as empty:
        refused(empty.scheduler_address, "has no workers: start some with 'dask worker ")


# -- at work -----------------------------------------------------------------------------------------------


def test_large_samples_cause_no_warning(local):
    with workers(scheduler=local.scheduler_address) as pool:
        assert next(pool.map(scaled, np.ones(2_000_000), [2.0])).sum() == 4_000_000


@pytest.mark.parametrize("error", [ModelError("task fails"), TimeoutError("of the task"), OSError("of the task")])
def test_errors_of_tasks_are_raised(local, error):
    with workers(scheduler=local.scheduler_address) as pool, pytest.raises(type(error), match=str(error)):
        list(pool.map(failing, error, [1]))


def test_a_long_task_is_waited_for(local, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.05)
    monkeypatch.setattr(module, "LOST_S", 0.2)
    monkeypatch.setattr(module.Cluster, "_has_workers", lambda _: True)
    with workers(scheduler=local.scheduler_address) as pool:
        assert list(pool.map(nap, None, [0.4])) == [0.4]


def nap(_job, task):
    time.sleep(task)
    return task


GONE = "it, or its last worker, is gone; start it again and run the same command: what is finished stays"


class Client:
    """As Dask's, of a cluster with these workers; without any, the scheduler does not answer either."""

    scheduler = SimpleNamespace(ncores=None)

    def __init__(self, has_workers):
        self.has_workers = has_workers

    def get_executor(self, **_):
        return None

    def sync(self, *_, **__):
        if not self.has_workers:
            raise OSError("connection closed")
        return {"tcp://w:1": 1}


def waited_for(future, has_workers=True):
    return module.Cluster(Client(has_workers), "tcp://s:1", 1).result(future)


def test_nobody_is_left_who_works_on_a_task(soon):
    with pytest.raises(InputError, match=f"^scheduler tcp://s:1: {GONE}$"):
        waited_for(Future(), has_workers=False)


def test_a_task_that_dask_has_given_up(soon):
    future = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    with pytest.raises(InputError, match=GONE):
        waited_for(future)


@pytest.mark.parametrize("module_name", ["distributed.comm.core", "asyncio.exceptions", "tornado.iostream"])
def test_errors_of_the_connection(soon, module_name):
    future = Future()
    future.set_exception(type("Closed", (Exception,), {"__module__": module_name})())
    with pytest.raises(InputError, match=GONE):
        waited_for(future)


@pytest.mark.soak
@pytest.mark.parametrize("what", ["scheduler", "workers"])
def test_a_cluster_that_is_killed(what, tmp_path, monkeypatch, capfd):
    """Processes of their own, as people have them."""
    python = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def start(name, *args):
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *args]
        return subprocess.Popen(command, env=python, cwd=tmp_path, stdout=-3, stderr=-3, start_new_session=True)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    started = {"scheduler": [start("scheduler", "--port", str(port), "--dashboard-address", ":0")]}
    started["workers"] = [start("worker", address, "--nthreads", "1") for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with workers(scheduler=address) as pool:
                    results = pool.map(nap, None, [0.1, 60, 60])
                    assert next(results) == 0.1
                    for process in started[what]:
                        os.killpg(process.pid, signal.SIGKILL)
                    killed = time.monotonic()
                    with pytest.raises(InputError, match=GONE):
                        list(results)
                    assert time.monotonic() - killed < 10
                break
            except OptionError:
                assert time.monotonic() < deadline
    finally:
        for process in (*started["workers"], *started["scheduler"]):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert capfd.readouterr().err == ""


class KilledWorker(Exception):
    """As Dask raises it."""


def test_workers_that_die_again_and_again(local):
    with workers(scheduler=local.scheduler_address) as pool, pytest.raises(InputError, match="died again and again, "):
        list(pool.map(failing, KilledWorker(), [1]))


# -- releases ----------------------------------------------------------------------------------------------


def test_other_releases_at_the_workers(local, monkeypatch):
    here = module.releases()
    assert here["numpy"] == np.__version__
    answers = iter([{**here, "numpy": "1.0", "onnxprune": None}])
    monkeypatch.setattr(module, "releases", lambda: next(answers, here))
    monkeypatch.setattr(module, "_IMPORT_S", 60)
    with pytest.raises(OptionError) as caught, workers(scheduler=local.scheduler_address):
        pass
    text = f"onnxprune {here['onnxprune']} (None here), numpy {here['numpy']} (1.0 here); members would depend on where"
    assert text in str(caught.value)


def test_a_worker_without_the_package():
    here = module.releases()
    answers = {"tcp://w:1": ModuleNotFoundError("No module named 'onnxprune'")}
    with pytest.raises(OptionError) as caught:
        module._check_releases("tcp://s:1", SimpleNamespace(run=lambda *_, **__: answers))
    assert str(caught.value) == (
        "scheduler tcp://s:1: worker tcp://w:1 cannot run tasks: ModuleNotFoundError: No module named 'onnxprune'; "
        f"install onnxprune {here['onnxprune']} there"
    )


def test_logs_are_as_before_afterwards(local):
    pytest.importorskip("distributed")
    logger = logging.getLogger("distributed.client")
    assert not logger.disabled
    with workers(scheduler=local.scheduler_address):
        assert logger.disabled
    assert not logger.disabled
