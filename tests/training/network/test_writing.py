"""A file that was written is the network, but for round-off."""

import numpy as np
import onnx
import pytest

from onnxprune.errors import VerificationError
from onnxprune.graph.view import view
from onnxprune.training.network import writing
from onnxprune.training.network.module import Network
from onnxprune.training.network.writing import check_file
from tests.support.build import model

ROWS = np.random.default_rng(0)
WEIGHTS = {"w": ROWS.standard_normal((64, 64)), "v": ROWS.standard_normal((64, 64))}
FEEDS = [{"x": ROWS.standard_normal((8, 64)).astype(np.float32)} for _ in range(3)]


@pytest.fixture
def written(tmp_path):
    weights = {name: array.astype(np.float32) for name, array in WEIGHTS.items()}
    nodes = ("a = MatMul(x, w)", "b = Tanh(a)", "y = MatMul(b, v)")
    proto = model(*nodes, x="float[n,64] x", y="float[n,64] y", **weights)
    path = tmp_path / "written.onnx"
    onnx.save(proto, path)
    return Network(view(proto)), path


def test_round_off_of_a_model_that_amplifies_it_is_allowed(monkeypatch, written):
    monkeypatch.setattr(writing, "tolerance", lambda _: 0.0)
    network, path = written
    assert 0 < check_file(network, path, {}, FEEDS) < 1e-5


def test_more_than_that_is_not(monkeypatch, written):
    monkeypatch.setattr(writing, "tolerance", lambda _: 0.0)
    network, path = written
    contents = {"w": network.model.array("w") * np.float32(1.001)}
    message = (
        r"output 'y' of the tuned file differs .* by [1-9]\.\de-0[234] of its range, more than 0e\+00, "
        r"and round-off makes \d\.\de-0[678] of it"
    )
    with pytest.raises(VerificationError, match=message):
        check_file(network, path, contents, FEEDS)
