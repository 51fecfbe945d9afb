"""Fixtures that several test files share."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.errors import DataError
from onnxprune.latency.kernels import CACHE
from onnxprune.runtime.timing import NodeTime


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
