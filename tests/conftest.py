"""Fixtures that several test files share, and what belongs to the soak.

``pytest --soak`` takes all cases; without it those that are marked `soak` are left out: they prove the same on more
graphs, or need packages that only the soak has (`tools/soak`). A run in which a test was skipped is not green:
``--allow-skips`` is for systems that lack what a test needs.
"""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.algebra import threads
from onnxprune.errors import DataError
from onnxprune.latency.kernels import CACHE
from onnxprune.runtime.session import threads_limited
from onnxprune.runtime.timing import NodeTime
from tests.support.house import size


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="take the cases that are marked soak, too")
    parser.addoption("--allow-skips", action="store_true", help="pass where a test was skipped")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--soak"):
        return
    left_out = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("soak")]


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(str(size()))
    if skipped(terminalreporter.config):
        terminalreporter.write_line("tests were skipped, so this run is not green; --allow-skips lets it pass")


def pytest_sessionfinish(session):
    if session.exitstatus == pytest.ExitCode.OK and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def skipped(config):
    """Return whether a test was skipped that should have run."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return bool(reporter and reporter.stats.get("skipped")) and not config.getoption("--allow-skips")


@pytest.fixture
def blas():
    """The function that tells the threads of linear algebra, which are two."""
    functions = threads._openblas()
    if functions is None:
        pytest.skip("numpy has another BLAS")
    get, set_to = functions
    before = get()
    set_to(2)
    yield get
    set_to(before)


@pytest.fixture
def steady(monkeypatch):
    """Nothing is timed: the first model takes 2 ms and 20 MB, the second 1 ms and 10 MB."""
    for module in ("evaluation.compare", "latency.speedup"):
        monkeypatch.setattr(
            f"onnxprune.{module}.time_interleaved", lambda *_, **__: [np.full(30, 2.0), np.full(30, 1.0)]
        )
    monkeypatch.setattr("onnxprune.evaluation.compare.time_creation", lambda *_, **__: [50.0, 40.0])
    monkeypatch.setattr("onnxprune.evaluation.compare.affinity", lambda: (0, 1))
    profiles = iter([[NodeTime("a", "MatMul", 1.5, ()), NodeTime("b", "Softmax", 0.5, ())],
                     [NodeTime("a", "MatMul", 0.5, ()), NodeTime("b", "Softmax", 0.5, ())]] * 100)  # fmt: skip
    monkeypatch.setattr("onnxprune.evaluation.compare.node_times", lambda *_, **__: next(profiles))
    peaks = iter([20_000_000, 10_000_000] * 100)
    monkeypatch.setattr("onnxprune.evaluation.compare.peak_memory_bytes", lambda *_, **__: next(peaks))


@pytest.fixture(autouse=True)
def _chosen_by_weights(request, monkeypatch):
    """No samples can be generated, so that units are chosen by weights: the others take seconds to run."""

    def inputs(*_, **__):
        raise DataError("none are generated in this test")

    if request.node.get_closest_marker("generated") is None:
        monkeypatch.setattr("onnxprune.data.generated.inputs", inputs)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Times of nodes are kept beside the other files of this run, and not in the cache of the user."""
    monkeypatch.setenv(CACHE, str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _one_thread():
    """Workers share the cores: a session whose threads nobody chose takes one."""
    with threads_limited(1):
        yield
