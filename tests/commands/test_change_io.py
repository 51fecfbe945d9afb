"""`prune` with `change_io`: caches of a decoder are cut, go with attentions, and are told of."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import DataError, ModelError, OptionError
from onnxprune.graph.files.read import load
from onnxprune.report.plan import plan_tables
from onnxprune.report.prune import prune_tables
from tests.support.build import dense
from tests.support.cli import invoke
from tests.support.decoder import decoder
from tests.support.schema import follows_the_schema
from tests.support.zoo_store import load_zoo, read, refill

IDS = np.random.default_rng(0).integers(0, 24, (24, 6))
FOLDED = "inputs and outputs that are caches: "


@pytest.fixture(scope="module")
def llama():
    """Two layers, each with two heads of keys and values and two queries to each."""
    return refill(read(load_zoo()["genai_llama_fp32.genai"].path))


def pruned(proto, **options):
    return onnxprune.prune(proto, data={"input_ids": IDS}, change_io=True, latency=False, **options)


def perceptron():
    return dense("b = Relu(a)")


def rows_of(result):
    return prune_tables({**result.report, "latency": []})[0].rows


def text_of(result):
    return "\n".join(map(str, prune_tables({**result.report, "latency": []})))


def test_heads_of_keys_and_values_go_and_the_report_says_which_ports_changed():
    result = pruned(decoder(), ratio=0.5)
    report = json.loads(json.dumps(result.report))
    follows_the_schema(report)
    assert report["options"]["change_io"] is True
    assert report["ports"] == [
        {"name": f"{side}_{what}", "before": ["n", 2, length, 4], "after": ["n", 1, length, 4]}
        for side, length in (("past", "p"), ("present", "q"))
        for what in ("key", "value")
    ]
    text = text_of(result)
    assert "[n, 2, p, 4] -> [n, 1, p, 4]: past_key, past_value" in text
    assert "[n, 2, q, 4] -> [n, 1, q, 4]: present_key, present_value" in text
    assert f"; {FOLDED}4 smaller\n" in text


def test_never_without_being_asked():
    result = onnxprune.prune(decoder(), 0.5, data={"input_ids": IDS}, latency=False)
    assert result.report["ports"] == []
    text = text_of(result)
    assert "it is part of a cache, which the model takes and gives back (at past_key and 1 more): " in text
    assert "wq:heads" in text
    assert "[free with --change-io]" in text
    assert FOLDED not in text


def test_an_attention_goes_with_its_caches(llama):
    result = pruned(llama, without=["*layers.0/attn/o_proj*"])
    report = json.loads(json.dumps(result.report))
    follows_the_schema(report)
    assert {each["name"] for each in report["ports"]} == {
        f"{side}.0.{what}" for side in ("past_key_values", "present") for what in ("key", "value")
    }
    assert [each["after"] for each in report["ports"]] == [None] * 4
    assert f"; {FOLDED}4 gone\n" in text_of(result)
    assert not any(".0." in port.name for port in (*result.model.graph.input, *result.model.graph.output))


def test_what_is_left_is_cut_and_the_report_tells_of_the_original(llama):
    result = pruned(llama, without=["*layers.0/attn/o_proj*"], ratio=0.5)
    after = {each["name"]: each["after"] for each in result.report["ports"]}
    assert after["past_key_values.0.key"] is None
    assert after["past_key_values.1.key"] == ["batch_size", 1, "past_sequence_length", "kv_cache_dim"]
    assert f"; {FOLDED}4 smaller, 4 gone\n" in text_of(result)


def test_the_default_says_what_would_free_an_attention(llama):
    reason = r"it computes a cache, which the model gives as an output \(at present.0.key\)"
    with pytest.raises(OptionError, match=reason):
        onnxprune.prune(llama, without=["*layers.0/attn/o_proj*"], data={"input_ids": IDS}, latency=False)


def test_samples_that_hold_a_past_are_refused():
    past = {name: np.ones((24, 2, 3, 4), np.float32) for name in ("past_key", "past_value")}
    with pytest.raises(DataError, match=r"the samples hold a past in 'past_key', a cache whose size changes"):
        onnxprune.prune(decoder(), 0.5, data={"input_ids": IDS, **past}, change_io=True, latency=False)


def test_samples_that_hold_a_past_are_taken_where_caches_stay():
    past = {name: np.ones((24, 2, 3, 4), np.float32) for name in ("past_key", "past_value")}
    result = onnxprune.prune(decoder(), 0.5, data={"input_ids": IDS, **past}, criterion="l2", latency=False)
    assert result.report["fidelity"] is not None


def test_samples_that_can_be_read_but_once_suit_what_branches_leave(llama):
    feeds = ({"input_ids": ids[None]} for ids in IDS)
    result = onnxprune.prune(
        llama, 0.5, data=feeds, change_io=True, latency=False, criterion="l2", without=["*layers.0/attn/o_proj*"]
    )
    assert result.report["verification"]["passed"]


def test_samples_that_hold_a_past_are_taken_where_no_cache_changes():
    past = {name: np.ones((24, 2, 3, 4), np.float32) for name in ("past_key", "past_value")}
    result = onnxprune.prune(decoder(), 0.25, data={"input_ids": IDS, **past}, latency=False)
    assert result.report["verification"]["passed"]
    assert result.report["fidelity"]["figures"]


# -- what is done with the file later ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(llama, tmp_path_factory):
    """Return the original, one with smaller caches, and one in which some are gone."""
    folder = tmp_path_factory.mktemp("ports")
    onnx.save(llama, folder / "llama.onnx")
    np.savez(folder / "texts.npz", input_ids=IDS)
    cut = {"smaller": {"ratio": 0.5}, "gone": {"without": ["*layers.0/attn/o_proj*"]}}
    for name, options in cut.items():
        pruned(llama, criterion="l2", **options).save(folder / f"{name}.onnx")
    return folder


@pytest.mark.parametrize("name", ["smaller", "gone"])
@pytest.mark.parametrize("data", [True, False])
def test_a_file_is_compared_with_its_original(files, name, data):
    source = str(files / "texts.npz") if data else None
    both = onnxprune.compare(
        files / "llama.onnx", files / f"{name}.onnx", data=source, budget_s=0.01, memory=False, detail=False
    )
    resized, gone = both.difference.incomparable, both.difference.gone
    if name == "smaller":
        assert not gone
        assert set(resized) == {f"present.{layer}.{what}" for layer in (0, 1) for what in ("key", "value")}
    else:
        assert not resized
        assert set(gone) == {
            f"{which}.0.{what}" for which in ("past_key_values", "present") for what in ("key", "value")
        }
    assert both.difference.snr_db is not None


def test_nothing_differs_where_heads_that_count_for_nothing_go(tmp_path):
    """The first head goes: what is left of a random past would be that of another one."""
    proto = decoder()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "wo")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:4] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "wo"))
    onnx.save(proto, tmp_path / "one.onnx")
    result = onnxprune.prune(
        proto, 0.5, only=("wq:heads",), change_io=True, criterion="l2", latency=False, reconstruct=False
    )
    assert result.report["initializers"]["wo"]["kept"] == {"0": [4, 5, 6, 7]}
    other = result.save(tmp_path / "other.onnx")
    both = onnxprune.compare(tmp_path / "one.onnx", other, budget_s=0.01, memory=False, detail=False)
    assert both.difference.max_rel_diff < 1e-5


def test_a_cache_lacks_with_its_output_or_not_at_all(tmp_path):
    """A model that reads no past, but gives what it keeps, was not cut: it is another one."""
    proto = decoder()
    for name, port in zip(("kh", "vh"), ("present_key", "present_value"), strict=True):
        node = next(node for node in proto.graph.node if port in node.output)
        node.CopyFrom(onnx.helper.make_node("Identity", [name], [port]))
    del proto.graph.input[1:]
    onnx.save(decoder(), tmp_path / "with.onnx")
    onnx.save(proto, tmp_path / "without.onnx")
    with pytest.raises(ModelError, match=r"input 'past_key' is in the first, not in the second"):
        onnxprune.compare(tmp_path / "with.onnx", tmp_path / "without.onnx", budget_s=0.01)


def test_only_caches_may_be_smaller(files):
    """The other way round the second model takes more than the first."""
    with pytest.raises(ModelError, match=r"the models cannot be compared: input 'past_key_values.0.key' differs"):
        onnxprune.compare(files / "smaller.onnx", files / "llama.onnx", budget_s=0.01)
    with pytest.raises(ModelError, match=r"input 'past_key_values.0.key' is in the second, not in the first"):
        onnxprune.compare(files / "gone.onnx", files / "llama.onnx", budget_s=0.01)


def test_a_file_is_pruned_again(files, tmp_path):
    result = onnxprune.prune(files / "smaller.onnx", 0.3, data=str(files / "texts.npz"), criterion="l2", latency=False)
    assert result.report["ports"] == []
    assert [port.shape for port in load(result.save(tmp_path / "again.onnx")).inputs[2:3]] == [
        ("batch_size", 1, "past_sequence_length", "kv_cache_dim")
    ]


@pytest.mark.parametrize("name", ["smaller", "gone"])
def test_a_file_learns_from_its_original(files, name, tmp_path):
    pytest.importorskip("torch")
    arguments = ["--data", str(files / "texts.npz"), "--steps", "2", "-o", str(tmp_path / "t.onnx"), "--quiet"]
    out = invoke("tune", str(files / f"{name}.onnx"), "--teacher", str(files / "llama.onnx"), *arguments).output
    assert "verified: the file = the network" in out


def test_rounds_tell_of_the_ports_of_the_original():
    pytest.importorskip("torch")
    report = pruned(decoder(), ratio=0.5, only=["wv"], rounds=2, tune={"steps": 2, "rate": 1e-4}).report
    assert {each["name"]: each["after"] for each in report["ports"]} == {
        "past_value": ["n", 2, "p", 2],
        "present_value": ["n", 2, "q", 2],
    }
    assert report["verification"]["passed"]


def test_a_file_learns_by_the_report_of_its_cut(tmp_path):
    pytest.importorskip("torch")
    result = pruned(decoder(), ratio=0.5, criterion="l2")
    onnx.save(decoder(), tmp_path / "decoder.onnx")
    result.save(tmp_path / "small.onnx")
    tuned = onnxprune.tune(
        tmp_path / "small.onnx", teacher=tmp_path / "decoder.onnx", cut=result.report, steps=2, rate=1e-4,
        data={"input_ids": IDS},
    )  # fmt: skip
    assert tuned.report["proof"]["passed"]


def test_the_command_line_takes_it(files, tmp_path):
    arguments = ["--ratio", "0.5", "--change-io", "--criterion", "l2", "--no-latency", "-o", str(tmp_path / "o.onnx")]
    out = invoke("prune", str(files / "llama.onnx"), *arguments).output
    assert f"{FOLDED}8 smaller" in out


def test_a_target_of_the_cache_takes_heads_of_keys_and_values():
    result = pruned(decoder(), targets={"kv-cache": 0.5})
    report = json.loads(json.dumps(result.report))
    follows_the_schema(report)
    assert (report["input"]["cache_bytes"], report["output"]["cache_bytes"]) == (2 * 2 * 4 * 4, 2 * 1 * 4 * 4)
    assert all("heads" in group["name"] for group in report["groups"] if group["kept"] < group["units"])
    (row,) = [row for row in rows_of(result) if row[0] == "cache of a token"]
    assert row[1:] == ("64 B", "32 B", "0.500")


def test_a_plan_says_what_is_expected_of_the_cache(llama):
    data = {"input_ids": IDS}
    plan = onnxprune.plan(decoder(), targets={"kv-cache": 0.5}, data=data, change_io=True)
    assert plan.expected["kv-cache"] == 0.5
    assert "0.500 of the cache of a token" in plan_tables(plan.to_dict(), None)[-1]
    shorter = onnxprune.plan(llama, depth=0.4, ratios={"*heads*": 0.5}, ratio=0.0, data=data, change_io=True)
    report = onnxprune.apply(shorter, llama, data=data, latency=False).report
    assert shorter.expected["kv-cache"] == report["output"]["cache_bytes"] / report["input"]["cache_bytes"] < 1
    assert "kv-cache" not in onnxprune.plan(perceptron(), 0.5, criterion="l2").expected


def test_a_target_of_the_cache_in_bytes(llama):
    whole = pruned(llama, ratio=0.5).report["input"]["cache_bytes"]
    report = pruned(llama, targets={"kv-cache": f"{whole // 2}B"}).report
    assert report["output"]["cache_bytes"] == whole // 2


def test_a_target_of_the_cache_goes_with_others(llama):
    report = pruned(llama, targets={"kv-cache": 0.5, "params": 0.8}).report
    assert report["output"]["cache_bytes"] <= 0.5 * report["input"]["cache_bytes"]
    assert report["output"]["params"] <= 0.8 * report["input"]["params"]


def test_attentions_that_go_take_their_caches_off_the_target(llama):
    report = pruned(llama, depth=0.4, targets={"kv-cache": 0.5}).report
    assert report["output"]["cache_bytes"] <= 0.5 * report["input"]["cache_bytes"]


@pytest.mark.parametrize(
    ("proto", "options", "message"),
    [
        (decoder, {}, "target kv-cache cuts inputs and outputs of the model: allow it with change_io"),
        (perceptron, {"change_io": True}, "target kv-cache: no input of this model holds what is kept of the past"),
    ],
)
def test_a_target_of_the_cache_that_cannot_be(proto, options, message):
    data = {"input_ids": IDS} if proto is decoder else None
    with pytest.raises(OptionError, match=message):
        onnxprune.prune(proto(), targets={"kv-cache": 0.5}, data=data, latency=False, **options)
