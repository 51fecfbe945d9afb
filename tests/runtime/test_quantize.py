"""Quantization of a file: what is computed, what is left, and what fails."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.errors import ModelError
from onnxprune.runtime.quantize import Form, has_vnni, quantize_file
from onnxprune.runtime.session import open_session
from tests.support.build import model

RNG = np.random.default_rng(0)
IMAGES = [{"x": RNG.normal(size=(4, 3, 6, 6)).astype(np.float32)} for _ in range(3)]
ROWS = [{"x": RNG.normal(size=(8, 16)).astype(np.float32)} for _ in range(2)]


def images():
    """A convolution whose channels differ much in size, a normalisation, a classifier."""
    weights = {"w": RNG.normal(size=(8, 3, 3, 3)) * np.logspace(-2, 1, 8)[:, None, None, None], "v": (5, 8, 1, 1)}
    norms = {"g": np.ones(8), "b": np.zeros(8), "m": np.zeros(8), "s": np.full(8, 2.0)}
    constants = {name: each if isinstance(each, tuple) else each.astype(np.float32) for name, each in
                 {**weights, **norms}.items()}  # fmt: skip
    return model("a = Conv(x, w)", "c = BatchNormalization(a, g, b, m, s)", "d = Relu(c)", "y = Conv(d, v)",
                 x="float[n,3,6,6] x", **constants)  # fmt: skip


def rows():
    return model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", x="float[n,16] x", w=(16, 32), v=(32, 4))


def quantized(proto, form, batches, tmp_path):
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(proto, source)
    quantize_file(source, target, form, batches)
    # what the file says, on every processor: without VNNI the usual kernels saturate sums of two products
    return onnx.load(target), [open_session(each, exact=True).run(batches[0])["y"] for each in (source, target)]


@pytest.mark.parametrize("form", [Form("static"), Form("static", "percentile"), Form("static", reduced=True)], ids=str)
def test_convolutions_have_a_scale_for_each_channel(form, tmp_path):
    proto, (before, after) = quantized(images(), form, IMAGES, tmp_path)
    ops = [node.op_type for node in proto.graph.node]
    assert "QuantizeLinear" in ops
    assert "BatchNormalization" not in ops  # taken into the convolution before it
    eights = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    scales = {len(tensor.dims) and tensor.dims[0] for tensor in proto.graph.initializer if "scale" in tensor.name}
    assert {8, 5} <= scales
    bits = max(
        int(np.abs(numpy_helper.to_array(tensor).astype(int)).max()) for tensor in eights if len(tensor.dims) > 1
    )
    assert bits <= 64 if form.reduced else bits > 64
    assert np.abs(after - before).mean() < 0.05 * np.abs(before).mean()


@pytest.mark.parametrize(
    ("form", "op"), [(Form("dynamic"), "MatMulInteger"), (Form("static", nodes="layers"), "DequantizeLinear")]
)
def test_products_of_matrices(form, op, tmp_path):
    proto, (before, after) = quantized(rows(), form, ROWS, tmp_path)
    assert op in [node.op_type for node in proto.graph.node]
    assert np.abs(after - before).mean() < 0.05 * np.abs(before).mean()


def test_ranges_are_those_of_all_batches(tmp_path):
    """The last batch alone holds large numbers: were it forgotten, they would be cut off."""
    wide = [*IMAGES, {"x": 10 * IMAGES[0]["x"]}]
    quantized(images(), Form("static"), wide, tmp_path)
    session, plain = (open_session(path) for path in (tmp_path / "int8.onnx", tmp_path / "float.onnx"))
    before, after = (each.run(wide[-1])["y"] for each in (plain, session))
    assert np.abs(after).max() > 0.9 * np.abs(before).max()


def test_it_is_quiet_and_leaves_logging_as_it_was(tmp_path, capsys):
    before = logging.root.manager.disable
    quantized(images(), Form("static", "percentile"), IMAGES, tmp_path)
    assert (capsys.readouterr(), logging.root.manager.disable) == (("", ""), before)


def test_masks_of_infinity_and_weights_that_nothing_reads_warn_of_nothing(tmp_path, recwarn, capfd):
    proto = model("a = MatMul(x, w)", "b = Add(a, mask)", "c = Softmax(b)", "y = MatMul(c, v)", x="float[n,16] x",
                  w=(16, 32), v=(32, 4), mask=np.repeat(np.float32([0, -np.inf]), 16), unread=(3, 3))  # fmt: skip
    for form in (Form("static"), Form("static", "percentile")):
        with contextlib.suppress(ModelError):
            quantized(proto, form, ROWS, tmp_path)
    assert not [str(each.message) for each in recwarn]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", [Form("static"), Form("static", "percentile"), Form("dynamic")], ids=str)
def test_every_session_knows_the_custom_operators(form, tmp_path, monkeypatch):
    known = []
    monkeypatch.setattr("onnxprune.runtime.quantize.register", lambda options, source: known.append(source.name))
    quantized(rows(), form, ROWS, tmp_path)
    assert known == ["float.onnx", *["watched.onnx"] * (form.mode == "static")]


def test_what_cannot_be_read_is_told(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="ONNX Runtime cannot prepare the model: "):
        quantize_file(tmp_path / "bad.onnx", tmp_path / "out.onnx", Form("dynamic"), [])


@pytest.mark.parametrize(
    ("features", "has"), [(["avx2", "avx_vnni"], True), (["sse2"], False), (["amx_int8", "avx2"], True), ([], True)]
)
def test_vnni(features, has):
    assert has_vnni(features) is has
