"""`prune --method slicegpt`, from the options to the proven file and its report."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import NothingToPrune, OptionError
from onnxprune.report.prune import prune_tables
from tests.support.cli import invoke
from tests.support.paths import MODELS, ZOO
from tests.support.schema import follows_the_schema
from tests.support.streams import FORMS, network
from tests.support.zoo_store import read, refill

VIT = str(MODELS / "vit.onnx")
DATA = str(MODELS / "mnist_calibration.npz")
TOKENS = {"x": np.random.default_rng(0).standard_normal((24, 5, 16)).astype(np.float32)}


def sliced(source, data, **options):
    result = onnxprune.prune(source, data=data, latency=False, method="slicegpt", **options)
    follows_the_schema(json.loads(json.dumps(result.report)))
    assert result.report["verification"]["passed"]
    assert result.report["rotation"]["max_rel_diff"] < 1e-4
    return result, "\n".join(map(str, prune_tables(result.report)))


def test_the_stream_of_a_vision_transformer_is_sliced():
    result, text = sliced(VIT, DATA, ratio=0.2, samples=64)
    report = result.report
    (stream,) = report["rotation"]["streams"]
    assert (stream["units"], stream["kept"], stream["places"], stream["centred"]) == (80, [64], 11, True)
    assert 0.9 < stream["carried"][0] < 1
    assert report["reconstruction"] == []
    assert report["fidelity"]["figures"]["agreement"] > 0.95
    assert report["input"]["params"] == 395614
    assert report["output"]["params"] == sum(
        np.prod(each.dims) for each in result.model.graph.initializer if each.data_type == 1
    )
    assert "patches: turned by 1 rotation; 64 of 80 directions kept, which carry 9" in text
    assert "turned = original to " in text


@pytest.mark.parametrize("kind", ["params", "macs"])
def test_targets_are_of_the_original_also_with_matrices_on_the_stream(kind):
    result, text = sliced(VIT, DATA, targets={kind: 0.8}, rotations="each", samples=64)
    report = result.report
    (stream,) = report["rotation"]["streams"]
    assert (stream["rotations"], stream["matrices"], len(stream["kept"])) == (11, 10, 11)
    assert {kept % 8 for kept in stream["kept"]} == {0}
    assert report["output"][kind] <= 0.8 * report["input"][kind] < report["rotation"][kind]
    assert "turned by 11 rotations and 10 matrices on it" in text


def test_directions_are_better_than_units():
    data = {"samples": 64, "ratio": 0.4}
    turned, _ = sliced(VIT, DATA, **data)
    as_it_is = onnxprune.prune(
        VIT, data=DATA, latency=False, width=True, only="patches", reconstruct=False, criterion="l2", **data
    )
    assert turned.report["groups"][0]["kept"] == as_it_is.report["groups"][0]["kept"] == 48
    assert turned.report["fidelity"]["figures"]["kl"] < as_it_is.report["fidelity"]["figures"]["kl"] / 2


def test_layers_are_refitted_where_that_is_asked_for():
    published, _ = sliced(VIT, DATA, ratio=0.4, samples=64)
    refitted, _ = sliced(VIT, DATA, ratio=0.4, samples=64, reconstruct=True)
    assert refitted.report["reconstruction"]
    assert refitted.report["fidelity"]["figures"]["kl"] < published.report["fidelity"]["figures"]["kl"]


def test_an_encoder_and_a_decoder_have_a_stream_each():
    proto = refill(read(ZOO / "hf_t5.torchscript.onnx.gz"))
    rng = np.random.default_rng(0)
    words = rng.integers(1, 90, (8, 7))
    data = {each.name: np.ones_like(words) if "mask" in each.name else words for each in proto.graph.input}
    result, _ = sliced(proto, data, ratio=0.25)
    assert [stream["kept"] for stream in result.report["rotation"]["streams"]] == [[48], [48]]


def named_as_their_outputs(proto):
    """Give each node the name of what it makes, as some exporters do."""
    for node in proto.graph.node:
        node.name = node.output[0]
    return proto


@pytest.mark.parametrize("form", FORMS)
def test_nodes_may_be_named_as_what_they_make(form):
    result, _ = sliced(named_as_their_outputs(network(form)), TOKENS, ratio=0.3)
    assert [stream["kept"] for stream in result.report["rotation"]["streams"]] == [[16]]


@pytest.mark.parametrize("form", ["layer", "skip rms"])
def test_normalisations_that_lose_units_may_be_named_as_what_they_make(form):
    proto = named_as_their_outputs(network(form))
    report = onnxprune.prune(proto, 0.3, data=TOKENS, latency=False, width=True).report
    assert report["verification"]["passed"]
    assert {group["kept"] for group in report["groups"] if group["units"] == 24} == {16}


def test_networks_that_normalise_behind_sums_are_refused():
    with pytest.raises(NothingToPrune) as error:
        onnxprune.prune(network("layer", post=True), data=TOKENS, method="slicegpt", ratio=0.25)
    text = str(error.value)
    assert text.startswith("method slicegpt can turn no stream: ")
    assert "networks can be turned that normalise in front of layers, not behind sums" in text


def test_networks_without_a_stream_are_refused():
    with pytest.raises(NothingToPrune, match="no branches are added to units that something normalises over"):
        onnxprune.prune(str(MODELS / "cnn.onnx"), data=DATA, method="slicegpt", ratio=0.25)


def test_a_target_that_the_turned_model_meets_is_refused():
    with pytest.raises(NothingToPrune, match=r"nothing has to go: the turned model meets params=0.999 already"):
        onnxprune.prune(VIT, data=DATA, samples=32, method="slicegpt", targets={"params": 0.999})


def test_targets_out_of_reach_are_told_with_what_the_turned_model_has():
    with pytest.raises(OptionError) as error:
        onnxprune.prune(network("rms"), data=TOKENS, latency=False, method="slicegpt", targets={"params": 0.01})
    text = str(error.value)
    assert text.startswith("the turned model has 1.000 of the parameters and 1.000 of the MACs: ")
    assert text.endswith("; figures are of the model that was turned")


def test_nothing_goes_at_a_ratio_of_0():
    with pytest.raises(NothingToPrune, match="at --ratio 0 no direction goes; give more, or a --target"):
        onnxprune.prune(network("rms"), 0, data=TOKENS, latency=False, method="slicegpt")


def test_a_stream_that_is_left_alone_is_told_with_the_reason():
    with pytest.raises(NothingToPrune, match="can turn no stream: w: left out by --ignore or --only"):
        onnxprune.prune(network("rms"), 0.3, data=TOKENS, latency=False, method="slicegpt", ignore="w")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "method slicegpt needs data: give samples with --data"),
        ({"criterion": "l2"}, "method slicegpt removes units: criterion has no effect with it; leave it out"),
        ({"depth": 0.2}, "method slicegpt removes units: depth has no effect with it; leave it out"),
        ({"rotations": "two"}, "unknown rotations 'two'; there are: one, each"),
        ({"method": None, "rotations": "each"}, "rotations has no effect without method slicegpt"),
        ({"method": "flap", "rotations": "each"}, "method flap removes units: rotations has no effect with it"),
        ({"tune": "2 steps", "rounds": 2}, "method slicegpt cuts all at once: rounds have no effect"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(options, message):
    with pytest.raises(OptionError) as error:
        onnxprune.prune(VIT, **{"data": DATA, "method": "slicegpt", **options})
    assert message in str(error.value)


def test_a_turned_model_learns_from_the_original():
    pytest.importorskip("torch")
    result, _ = sliced(VIT, DATA, ratio=0.4, samples=64, tune="4 steps")
    assert result.report["tuning"]["steps"] == 4


def test_the_command_line_slices(tmp_path):
    target = tmp_path / "out.onnx"
    printed = invoke(
        VIT,
        "--method",
        "slicegpt",
        "--ratio",
        "0.2",
        "--data",
        DATA,
        "--no-latency",
        "--samples",
        "32",
        "-o",
        str(target),
    )
    assert "turned by 1 rotation" in printed.output
    assert onnx.load(target).graph.initializer
