"""Samples that are made up: their kinds, their ranges, and how a model chooses among them."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.data import generated, judging
from onnxprune.graph.files.read import load
from onnxprune.graph.model import Model
from onnxprune.runtime import replay
from onnxprune.runtime.room import memory_limited
from tests.support.build import model
from tests.support.paths import MODELS

pytestmark = pytest.mark.generated

FEW_MACS = 10**7


def model_of(*inputs: onnx.ValueInfoProto, nodes: list[onnx.NodeProto] | None = None, **tables: int) -> Model:
    """Return a model that passes its inputs on; each of `tables` is an embedding of so many rows, by input."""
    nodes, outputs, constants = list(nodes or ()), [], []
    for port in inputs:
        name = port.name
        if name in tables:
            constants.append(
                helper.make_tensor(f"{name}.table", TensorProto.FLOAT, [tables[name], 2], np.ones(2 * tables[name]))
            )
            nodes.append(helper.make_node("Gather", [f"{name}.table", name], [f"{name}.out"]))
            outputs.append(info(f"{name}.out", TensorProto.FLOAT, ["a", "b", 2]))
        else:
            nodes.append(helper.make_node("Identity", [name], [f"{name}.out"]))
            outputs.append(onnx.ValueInfoProto(name=f"{name}.out", type=port.type))
    graph = helper.make_graph(nodes, "g", list(inputs), outputs, constants)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def info(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize("name", ["resnet_bn", "resnet_folded", "mobilenet", "vit"])
def test_a_network_trained_on_0_to_1_gets_pictures_from_0_to_1(name: str) -> None:
    found = generated.inputs(load(MODELS / f"{name}.onnx"), 32, work=FEW_MACS)
    image = found.data.columns["image"]
    assert image.shape == (32, 1, 28, 28)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert 0.9 < image.max() <= 1
    hint = "stored statistics" if name == "resnet_bn" else "confident, diverse outputs"
    assert found.description == f"shapes, clouds and lines, 0 to 1, chosen by {hint}"


def test_a_few_samples_tell_ranges_apart() -> None:
    """Where running the model is dear: one sample alone is as diverse in any range."""
    proto = model(
        "a = Neg(x)", "b = Relu(a)", "c = Flatten(b)", "d = MatMul(c, w)", "y = Softmax(d)",
        x="float[n,1,8,8] x", w=5 * np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32),
    )  # fmt: skip
    found = generated.inputs(load(proto), 4, work=1e12)
    assert re.search("lines, -[12] to .*, chosen by confident, diverse outputs", found.description)
    assert found.data.columns["x"].min() < -0.5


def test_one_seed_makes_one_set_of_samples() -> None:
    model = load(MODELS / "resnet_folded.onnx")
    one, same, other = (generated.inputs(model, 16, seed=s, work=FEW_MACS).data.columns["image"] for s in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_what_is_chosen_is_more_diverse_than_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    logits = np.concatenate([np.tile([9.0, 0, 0], (50, 1)), rng.standard_normal((50, 3)), 9 * np.eye(3)[1:]])
    score, rows = judging._telling(judging._probabilities(logits), 3)
    assert score > 0.9 * np.log(3)
    assert {100, 101} < set(rows().tolist())


def test_samples_near_the_stored_statistics_are_taken() -> None:
    means = np.array([[5.0], [0.1], [-0.1], [7.0]])
    stored = {"x": (np.zeros(1), np.ones(1))}
    _, rows = judging._nearest((means, means**2 + 1), stored, 2)
    assert sorted(rows().tolist()) == [1, 2]


def test_divergence_is_that_of_gaussians() -> None:
    zero, one = np.zeros(1), np.ones(1)
    assert judging.divergence(zero, one, zero, one) == 0
    assert judging.divergence(2 * one, 5 * one, zero, one) == pytest.approx(2)  # a shift by 2 deviations
    assert np.isfinite(judging.divergence(zero, zero, zero, one))  # a channel that is constant


def test_tokens_lie_in_the_vocabulary_and_few_are_frequent() -> None:
    model = model_of(
        info("ids", TensorProto.INT64, ["n", "length"]), info("mask", TensorProto.INT64, ["n", "length"]), ids=500
    )
    data = generated.inputs(model, 40).data
    ids = data.columns["ids"]
    assert ids.shape == (40, generated.LONGEST)
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < 500
    counts = np.sort(np.bincount(ids.reshape(-1), minlength=500))[::-1]
    assert counts[:25].sum() > 0.35 * counts.sum()
    assert (data.columns["mask"] == 1).all()


def test_beside_tokens_there_are_positions_and_segments() -> None:
    ports = [info(name, TensorProto.INT64, ["n", "length"]) for name in ("ids", "places", "segments")]
    columns = generated.inputs(model_of(*ports, ids=900, places=128, segments=2), 4).data.columns
    assert (columns["places"] == np.arange(generated.LONGEST)).all()
    assert (columns["segments"] == 0).all()


def test_a_model_without_a_hint_gets_pictures_of_all_usual_ranges() -> None:
    found = generated.inputs(model_of(info("x", TensorProto.FLOAT, ["n", 3, 32, 32])), 36)
    image = found.data.columns["x"]
    lows, highs = image.min((1, 2, 3)), image.max((1, 2, 3))
    assert found.description == "shapes, clouds and lines, of the ranges that are usual"
    assert (lows >= 0).sum() >= 12
    assert (lows < -1.5).any()
    assert highs.max() <= 2.5


@pytest.mark.parametrize(
    ("shape", "kind", "sizes"),
    [
        (["n", 3, "h", "w"], TensorProto.FLOAT, (4, 3, 224, 224)),
        (["n", "h", "w", 3], TensorProto.FLOAT16, (4, 224, 224, 3)),
        (["n", 24, 20, 3], TensorProto.UINT8, (4, 24, 20, 3)),
        ([2, 1, 9, 7], TensorProto.FLOAT, (4, 1, 9, 7)),
        (["n", 1, 400], TensorProto.FLOAT, (4, 1, 400)),
        (["n", 16000], TensorProto.FLOAT, (4, 16000)),
        (["n", 12], TensorProto.FLOAT, (4, 12)),
        (["n", 8, 5, 5], TensorProto.FLOAT, (4, 8, 5, 5)),
    ],
)
def test_types_and_shapes_are_those_of_the_input(shape: list[int | str], kind: int, sizes: tuple[int, ...]) -> None:
    array = generated.inputs(model_of(info("x", kind, shape)), 4).data.columns["x"]
    assert array.shape == sizes
    assert array.dtype == helper.tensor_dtype_to_np_dtype(kind)
    assert np.isfinite(array.astype(np.float32)).all()
    assert len(np.unique(array)) > 4


def test_bytes_are_pictures_of_the_whole_range() -> None:
    array = generated.inputs(model_of(info("x", TensorProto.UINT8, ["n", 3, 40, 40])), 12).data.columns["x"]
    assert array.min() < 10
    assert array.max() > 245


def test_the_batch_that_a_model_fixes_is_filled() -> None:
    found = generated.inputs(model_of(info("x", TensorProto.FLOAT, [5, 3, 8, 8])), 7)
    assert found.data.count == 10
    assert found.data.batch.fixed == 5


@pytest.mark.parametrize("style", generated._STYLES)
@pytest.mark.parametrize("sides", [(1, 1), (3, 17), (28, 28), (65, 40)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_style_draws_any_size(style: object, sides: tuple[int, int], channels: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        picture = style(rng, channels, *sides)  # type: ignore[operator]
        assert picture.shape == (channels, *sides)
        assert np.isfinite(picture).all()
        assert picture.min() >= 0
        assert picture.max() <= 1


NORM = {"scale": (3,), "shift": (3,), "mean": (3,), "variance": np.ones(3, np.float32)}
SAMPLES = ("r = Relu(x)", "a = BatchNormalization(r, scale, shift, mean, variance)")
TABLE = (
    "s = Tanh(table)", "c = Identity(s)", "k = ReduceSum<keepdims = 0>(x, zero)", "z = Mul(k, none)", "d = Add(c, z)",
    "b = BatchNormalization(d, scale, shift, mean, variance)", "m = ReduceMean(b, one)", "u = Unsqueeze(m, two)",
)  # fmt: skip


@pytest.mark.parametrize("rows", [7, 16])
def test_what_all_samples_share_does_not_judge_them(rows: int) -> None:
    """A table that is normalised beside the samples has no samples, whatever its length."""
    proto = model(
        *SAMPLES, *TABLE, "y = Add(a, u)", x="float[n,3,8,8] x", y="float[n,3,8,8] y", infer=False,
        zero=[0, 1, 2, 3], none=0.0, **NORM, table=(rows, 3), one=[0], two=[2, 3],
    )  # fmt: skip
    found = generated.inputs(load(proto), 8)
    assert found.description.endswith("chosen by stored statistics")


def test_where_nothing_is_told_apart_there_is_no_judge() -> None:
    proto = model(
        *TABLE, "y = Add(x, u)", x="float[n,3,8,8] x", y="float[n,3,8,8] y", infer=False,
        zero=[0, 1, 2, 3], none=0.0, **NORM, table=(7, 3), one=[0], two=[2, 3],
    )  # fmt: skip
    assert generated.inputs(load(proto), 8).description.endswith("of the ranges that are usual")


@pytest.mark.parametrize("is_normalised", [True, False])
def test_a_model_in_pieces_judges_alike_and_opens_each_once(
    is_normalised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = ("b = BatchNormalization(a, scale, shift, mean, variance)",) if is_normalised else ("b = Relu(a)",)
    weights = {"w": (3, 3, 1, 1), "v": (4, 3, 1, 1), **(NORM if is_normalised else {})}
    nodes = ("a = Conv(x, w)", *norm, "c = Conv(b, v)", "m = GlobalAveragePool(c)", "y = Flatten(m)")
    proto = load(model(*nodes, x="float[n,3,4,4] x", **weights))
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((3, 3, 4, 4)).astype(np.float32)} for _ in range(5)]
    whole, _ = judging.judge_of(proto, proto.inputs, feeds[0])
    expected, rows = whole(iter(feeds), 4)
    opened, original = [], replay.part
    with memory_limited(1):
        pieces, _ = judging.judge_of(proto, proto.inputs, feeds[0])
        monkeypatch.setattr(replay, "part", lambda *args: opened.append(args) or original(*args))
        good, others = pieces(iter(feeds), 4)
    assert 0 < len(opened) <= 4  # pieces, however many batches
    assert good == pytest.approx(expected, rel=1e-4)
    assert others().tolist() == rows().tolist()
