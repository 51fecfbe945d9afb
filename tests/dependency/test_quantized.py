"""Whole networks as ONNX Runtime quantizes them: pruned like the float network that they were made from."""

from __future__ import annotations

import logging
import shutil

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

import onnxprune
from onnxprune.criteria import importance
from onnxprune.dependency.groups import groups
from onnxprune.dependency.matrices import matrices
from onnxprune.dependency.trace import trace
from onnxprune.evaluation.verify import verify
from onnxprune.graph.files.checks import problems
from onnxprune.graph.files.read import load
from onnxprune.graph.view import view
from onnxprune.runtime.session import open_session
from onnxprune.surgery.mask import masked
from onnxprune.surgery.rewrite import rewrite
from tests.support.build import ROWS, model
from tests.support.oracle import check
from tests.support.paths import MODELS

NETWORKS = ("cnn", "resnet_folded", "vit")
STATIC = [(kind, per_channel) for kind in ("QDQ", "QOperator") for per_channel in (False, True)]


class _Images(CalibrationDataReader):
    def __init__(self):
        self._feeds = iter([{"image": np.load(MODELS / "mnist_calibration.npz")["image"][:8].astype(np.float32)}])

    def get_next(self):
        return next(self._feeds, None)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Return a function that quantizes a network once."""
    folder, made = tmp_path_factory.mktemp("quantized"), {}

    def make(name, kind, per_channel):
        key = f"{name}-{kind}-{per_channel}"
        if key not in made:
            made[key] = folder / f"{key}.onnx"
            target = made[key]
            source = shutil.copy(MODELS / f"{name}.onnx", folder)  # the quantizer writes a file beside it
            before = logging.root.manager.disable
            logging.disable(logging.WARNING)  # the quantizer recommends a preprocessing of its own
            try:
                if kind == "dynamic":
                    quantize_dynamic(source, target, per_channel=per_channel)
                else:
                    quantize_static(source, target, _Images(), quant_format=QuantFormat[kind], per_channel=per_channel)
            finally:
                logging.disable(before)
        return made[key]

    return make


def free(source):
    return sorted(group.units for group in groups(trace(load(source))) if group.prunable)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("kind", "per_channel"), [*STATIC, ("dynamic", True)])
def test_it_has_the_groups_of_the_float_network(quantized, name, kind, per_channel):
    assert free(quantized(name, kind, per_channel)) == free(MODELS / f"{name}.onnx")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("kind", "per_channel"), [*STATIC, ("dynamic", True)])
def test_masked_and_pruned_are_equal(quantized, name, kind, per_channel):
    """To the last bit: both compute the same integers."""
    path = quantized(name, kind, per_channel)
    checked = check(path)
    assert checked.max_rel_diff == (pytest.approx(0, abs=1e-6) if kind == "dynamic" else 0)
    share = view(checked.pruned).params / load(path).params
    floats = check(MODELS / f"{name}.onnx")
    assert share == pytest.approx(view(floats.pruned).params / load(MODELS / f"{name}.onnx").params, abs=0.02)


@pytest.mark.parametrize(("kind", "per_channel"), [("QDQ", True), ("QOperator", False), ("dynamic", False)])
def test_prune_takes_it(quantized, kind, per_channel):
    result = onnxprune.prune(quantized("cnn", kind, per_channel), ratio=0.5, latency=False)
    before, after = result.report["input"], result.report["output"]
    assert result.report["verification"]["passed"]
    assert after["params"] < 0.4 * before["params"]
    assert after["macs"] < 0.4 * before["macs"]


@pytest.mark.parametrize(("kind", "per_channel"), STATIC)
def test_the_kept_units_are_those_of_the_float_network(quantized, kind, per_channel):
    """Rounding to 8 bits hardly changes norms, whether scales are per tensor or per channel."""
    whole, eight = kept("cnn.onnx"), kept(quantized("cnn", kind, per_channel))
    assert len(whole) == 4
    assert all(len(a & b) >= 0.9 * len(a) for a, b in zip(whole, eight, strict=True))


def kept(source):
    """Return the units that stay, group by group in graph order."""
    found = trace(load(MODELS / source if isinstance(source, str) else source))
    scores = (importance.score("l2", matrices(g, found), np.random.default_rng(0)) for g in groups(found) if g.prunable)
    return [set(np.argsort(-each)[: len(each) // 2].tolist()) for each in scores]


# -- masks of integers ---------------------------------------------------------------------------------------


def integer_product(**more):
    """A product of unsigned integers whose zero points are not 0."""
    return model(
        "a = MatMul(x, w1)", "q = QuantizeLinear(a, s, z)", "p = MatMulInteger(q, k, z, kz)", "y = Cast<to=1>(p)",
        x=ROWS, w1=(6, 8), s=0.05, z=np.uint8(117), k=np.arange(40).reshape(8, 5).astype(np.uint8) * 6,
        **{"kz": np.uint8(130), **more}
    )  # fmt: skip


def first_half(traced):
    return {g.atom: np.arange(g.units) < g.units // 2 for g in groups(traced) if g.prunable}


def test_a_masked_weight_is_its_zero_point():
    traced = trace(load(integer_product()))
    proto = masked(traced, first_half(traced))
    (name,) = (tensor.name for tensor in proto.graph.initializer if tensor.name.startswith("onnxprune_mask"))
    array = view(proto).array(name)
    assert (array[4:] == 130).all()
    assert (array[:4] == np.arange(20).reshape(4, 5) * 6).all()
    assert [node.op_type for node in proto.graph.node] == ["MatMul", "QuantizeLinear", "MatMulInteger", "Cast"]


def test_a_masked_weight_has_the_zero_point_of_its_column():
    zeros = np.array([1, 20, 30, 40, 50], np.uint8)
    traced = trace(load(integer_product(kz=zeros)))
    proto = masked(traced, first_half(traced))
    (name,) = (tensor.name for tensor in proto.graph.initializer if tensor.name.startswith("onnxprune_mask"))
    assert (view(proto).array(name)[4:] == zeros).all()


def test_a_zero_point_per_column_is_put_beside_an_activation():
    """ONNX Runtime has no kernel for this product: the reference evaluator of onnx takes the masked operand."""
    proto = model(
        "a = MatMul(x, w1)", "q = QuantizeLinear(a, s, z)", "c = MatMul(x, w3)", "d = Transpose(c)",
        "r = QuantizeLinear(d, s, z)", "p = MatMulInteger(q, r, z, kz)", "y = Cast<to=1>(p)", x="float[5,6] x",
        w1=(6, 8), w3=(6, 8), s=0.05, z=np.uint8(117), kz=np.array([1, 20, 30, 40, 50], np.uint8)
    )  # fmt: skip
    traced = trace(load(proto))
    dense = masked(traced, {g.atom: np.arange(g.units) < g.units // 2 for g in groups(traced) if g.prunable})
    assert problems(dense) is None
    operand = next(node for node in dense.graph.node if node.op_type == "MatMulInteger").input[1]
    dense.graph.output.append(onnx.ValueInfoProto(name=operand))
    (found,) = ReferenceEvaluator(dense).run([operand], {"x": np.ones((5, 6), np.float32)})
    assert (found[4:] == [1, 20, 30, 40, 50]).all()
    assert not (found[:4] == [1, 20, 30, 40, 50]).all()


def test_dynamic_ranges_are_those_of_the_kept_units():
    """The range always includes zero: a masked unit, which is zero, does not widen it."""
    proto = model(
        "a = MatMul(x, w1)", "q, s, z = DynamicQuantizeLinear(a)", "p = MatMulInteger(q, k, z)", "f = Cast<to=1>(p)",
        "y = Mul(f, s)", x=ROWS, w1=(6, 8), k=np.arange(40).reshape(8, 5).astype(np.uint8)
    )  # fmt: skip
    traced = trace(load(proto))
    kept = first_half(traced)
    feeds = {"x": np.ones((3, 6), np.float32)}
    whole, dense, small = (
        open_session(each.SerializeToString(), exact=True).run(feeds)["y"]
        for each in (proto, masked(traced, kept), rewrite(traced, kept).proto)
    )
    assert np.array_equal(dense, small)
    assert not np.allclose(whole, dense)


# -- four bits -----------------------------------------------------------------------------------------------


def four_bit_model():
    integers = np.random.default_rng(0).integers(-8, 8, (16, 5)).astype(ml_dtypes.int4)
    return model(
        "a = MatMul(x, w1)", "k = DequantizeLinear<axis=0, block_size=4>(kq, ks)", "y = MatMul(a, k)", x=ROWS,
        w1=(6, 16), kq=integers, ks=np.linspace(0.1, 0.4, 20, dtype=np.float32).reshape(4, 5), opset=21
    )  # fmt: skip


def test_four_bit_weights_stay_so():
    proto = four_bit_model()
    traced = trace(load(proto))
    (group,) = (group for group in groups(traced) if group.prunable)
    pruned = rewrite(traced, {group.atom: np.array([True, False, False, True])}).proto
    before, after = load(proto).array("kq"), view(pruned).array("kq")
    tensor = next(t for t in pruned.graph.initializer if t.name == "kq")
    assert (tensor.data_type, list(tensor.dims), len(tensor.raw_data)) == (onnx.TensorProto.INT4, [8, 5], 20)
    assert np.array_equal(after.astype(int), before.astype(int)[[0, 1, 2, 3, 12, 13, 14, 15]])


def test_an_odd_number_of_four_bit_weights_is_packed_and_read_again():
    integers = np.arange(-7, 8).reshape(5, 3).astype(ml_dtypes.int4)
    proto = model(
        "k = DequantizeLinear(kq, ks)", "l = Transpose(k)", "a = MatMul(x, l)", "y = MatMul(a, w2)", x="float[n,3] x",
        kq=integers, ks=0.5, w2=(5, 2), opset=21
    )  # fmt: skip
    checked = check(proto, share=0.6)
    assert checked.shape("kq") == [3, 3]
    tensor = next(t for t in checked.pruned.graph.initializer if t.name == "kq")
    assert len(tensor.raw_data) == 5  # nine numbers


def test_verification_sees_through_an_optimization_of_one_side():
    """One unit is left: ONNX Runtime then turns the product into one that quantizes the activations as well."""
    rng = np.random.default_rng(3)
    proto = model(
        "a = MatMul(x, w1)", "k = DequantizeLinear<axis=0>(kq, ks)", "l = Transpose(k)", "b = MatMul(a, l)",
        "y = MatMul(b, w2)", x=ROWS, w1=(6, 8), kq=rng.integers(-100, 100, (4, 8)).astype(np.int8),
        ks=rng.uniform(0.005, 0.02, 4).astype(np.float32), w2=(4, 5)
    )  # fmt: skip
    traced = trace(load(proto))
    kept = {g.atom: np.arange(g.units) < g.units // 4 for g in groups(traced) if g.prunable}
    verification = verify(traced, kept, view(rewrite(traced, kept).proto))
    assert verification.passed, verification.problem
    assert verification.max_rel_diff < 1e-6
