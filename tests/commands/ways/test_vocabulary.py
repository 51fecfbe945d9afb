"""`prune` with a vocabulary: tokens go, samples and settings follow, branches and widths are cut after that."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from onnxprune.commands.beside.ids_in_settings import places
from onnxprune.commands.beside.settings import adjusted
from onnxprune.commands.ways import vocabulary as command
from onnxprune.errors import NothingToPrune, OptionError, VerificationError
from onnxprune.report.prune import prune_tables
from onnxprune.report.vocabulary import composed
from onnxprune.surgery.rewrite import Cut
from tests.support.build import array, model
from tests.support.cli import invoke
from tests.support.decoder import decoder
from tests.support.schema import follows_the_schema
from tests.support.words import COUNT, IDS, WIDTH, texts, words
from tests.support.zoo_store import load_zoo, read, refill

KEPT = (0, 3, 4, 9, 17)
INNER = 12


def network(**more):
    """Return a model of words with a feed-forward branch."""
    head = ("r = MatMul(h, up)", "g = Relu(r)", "o = MatMul(g, down)", "s = Add(h, o)", "y = MatMul(s, head)")
    weights = {"up": (WIDTH, INNER), "down": (INNER, WIDTH), "head": (WIDTH, COUNT)}
    return words(*head, **weights, **more)


def samples(count=40):
    """Return texts of which every second one is made of kept words."""
    ids = texts(count)
    ids[::2] = np.array(KEPT)[ids[::2] % len(KEPT)]
    return {"ids": ids}


def pruned(proto=None, data=None, **options):
    data = samples() if data is None else data
    options = options if "method" in options else {"effort": "quick", **options}
    return onnxprune.prune(proto or network(), vocabulary=KEPT, data=data, latency=False, **options)


def run(proto, ids):
    return ort.InferenceSession(proto.SerializeToString()).run(None, {"ids": ids})[0]


def test_tokens_alone():
    result = pruned()
    report = result.report
    follows_the_schema(json.loads(json.dumps(report)))
    new = texts(below=len(KEPT))
    expected = run(network(), np.array(KEPT)[new])[..., list(KEPT)]
    np.testing.assert_allclose(run(result.model, new), expected, rtol=1e-5, atol=1e-5)
    assert report["vocabulary"] == {
        "asked": 5, "before": COUNT, "after": 5, "kept": list(KEPT), "inputs": ["ids"], "outputs": ["y"],
        "samples": 40, "left_out": 20,
    }  # fmt: skip
    assert report["input"]["params"] - report["output"]["params"] == (COUNT - 5) * 2 * WIDTH
    assert report["input"]["macs"] > report["output"]["macs"]
    assert report["verification"]["passed"]
    assert report["fidelity"]["figures"] == {"snr_db": None}  # no difference at all
    assert report["options"]["vocabulary"] == 5
    assert report["initializers"]["table"] == {"source": "table", "kept": {"0": list(KEPT)}}
    text = "\n".join(map(str, prune_tables(report)))
    assert "ports changed, as was asked: 5 of 20 tokens are kept; 'ids' takes other ids, 'y' scores the kept" in text
    assert "left out 20 of 40 samples, which hold tokens that are gone" in text


def test_widths_are_cut_after_tokens_and_targets_are_of_the_original():
    report = pruned(targets={"params": 0.5}).report
    follows_the_schema(json.loads(json.dumps(report)))
    assert 0.3 < report["output"]["params"] / report["input"]["params"] <= 0.5
    assert report["input"]["params"] == 20 * 6 * 2 + 36 + 2 * 72
    assert report["vocabulary"]["after"] == 5
    assert len(report["verification"]["runs"]) == 4
    assert any(group["kept"] < group["units"] for group in report["groups"])
    assert report["initializers"]["head"]["kept"]["1"] == list(KEPT)
    assert report["initializers"]["down"]["source"] == "down"
    assert report["fidelity"]["figures"]["snr_db"] > 10  # to the original behind the map


def test_a_target_that_tokens_meet_needs_no_more():
    report = pruned(targets={"params": 0.9}).report
    assert all(group["kept"] == group["units"] for group in report["groups"])


def test_branches_go_also_where_tokens_meet_a_target():
    report = pruned(without="o", targets={"params": 0.9}).report
    assert report["vocabulary"]["after"] == 5
    assert report["depth"]["removed"] == 1
    assert report["options"]["targets"] == (("params", 0.9),)


def test_branches_go_after_tokens():
    report = pruned(without="o").report
    assert report["vocabulary"]["after"] == 5
    assert report["depth"]["removed"] == 1
    assert report["output"]["params"] == 5 * WIDTH * 2 + WIDTH * WIDTH
    assert len(report["verification"]["runs"]) == 4


def test_measured_targets_and_latency_are_of_the_original():
    result = onnxprune.prune(network(), vocabulary=KEPT, targets={"latency": "500ms"})
    assert result.report["latency"][0]["before_ms"] > 0
    assert result.report["options"]["targets"] == (("latency", "500ms"),)


# -- with other options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "runs"), [({}, 2), ({"targets": {"params": 0.15}}, 4)])
def test_a_table_that_is_held_twice_is_stored_once_and_loses_its_rows_once(more, runs):
    table = array("table", (300, 64))
    proto = model(
        "e = Gather(table, ids)", "r = MatMul(e, up)", "g = Relu(r)", "o = MatMul(g, down)", "s = Add(e, o)",
        "y = MatMul(s, head)", x=IDS, table=table, head=table.T.copy(), up=(64, 96), down=(96, 64),
    )  # fmt: skip
    result = pruned(proto, tie=True, **more)
    report = result.report
    follows_the_schema(json.loads(json.dumps(report)))
    assert report["tied"]["stored_once"]
    assert [each["name"] for each in report["tied"]["twins"]] == ["head"]
    assert report["input"]["params"] == 2 * 300 * 64 + 2 * 64 * 96  # as the file has them
    sizes = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    inner = sizes["up"][1]
    assert sizes == {"table": (5, 64), "up": (64, inner), "down": (inner, 64)}
    assert (inner < 96) == bool(more)
    assert report["output"]["params"] <= more.get("targets", {"params": 1})["params"] * report["input"]["params"]
    assert report["initializers"]["table"] == {"source": "table", "kept": {"0": list(KEPT)}}
    assert len(report["verification"]["runs"]) == runs
    if not more:
        new = texts(below=len(KEPT))
        expected = run(proto, np.array(KEPT)[new])[..., list(KEPT)]
        np.testing.assert_allclose(run(result.model, new), expected, rtol=1e-4, atol=1e-3)


def with_caches(proto, **options):
    ids = np.random.default_rng(0).integers(0, 24, (24, 6))
    ids[::2] %= 20
    result = onnxprune.prune(
        proto, vocabulary=range(20), data={"input_ids": ids}, change_io=True, latency=False, criterion="l2", **options
    )
    follows_the_schema(json.loads(json.dumps(result.report)))
    return result


def test_caches_are_cut_after_tokens():
    report = with_caches(decoder(), ratio=0.5).report
    assert report["vocabulary"]["outputs"] == ["logits"]
    assert [(each["name"], each["after"]) for each in report["ports"]] == [
        (f"{side}_{what}", ["n", 1, length, 4])
        for side, length in (("past", "p"), ("present", "q"))
        for what in ("key", "value")
    ]
    assert report["verification"]["passed"]
    assert len(report["verification"]["runs"]) == 6  # of tokens and of heads, with a past in one of three each


def test_caches_go_with_their_attention_after_tokens():
    llama = refill(read(load_zoo()["genai_llama_fp32.genai"].path))
    report = with_caches(llama, without=["*layers.0/attn/o_proj*"], ratio=0.5).report
    after = {each["name"]: each["after"] for each in report["ports"]}
    assert after["past_key_values.0.key"] is None
    assert after["past_key_values.1.key"] == ["batch_size", 1, "past_sequence_length", "kv_cache_dim"]
    assert report["vocabulary"]["after"] == 20


def test_a_published_method_cuts_what_tokens_leave():
    report = pruned(method="flap", ratio=0.5).report
    assert report["method"]["name"] == "flap"
    assert report["vocabulary"]["after"] == 5
    assert any(group["kept"] < group["units"] for group in report["groups"])
    met = pruned(method="flap", targets={"params": 0.9}).report
    assert (met["method"], met["options"]["method"]) == (None, "flap")  # tokens were enough


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "flap"}, "method flap chooses no tokens: say with vocabulary how much else is to go"),
        (
            {"method": "slicegpt", "ratio": 0.5},
            "method slicegpt turns the original itself: cut the vocabulary first, and turn the result",
        ),
    ],
)
def test_methods_that_do_not_go_with_it_are_refused(options, message):
    with pytest.raises(OptionError) as error:
        onnxprune.prune(network(), vocabulary=KEPT, data=samples(), latency=False, **options)
    assert str(error.value) == message


def test_a_sweep_refuses_it(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    with pytest.raises(OptionError, match="vocabulary has no effect in a sweep, which cuts widths alone"):
        onnxprune.sweep(tmp_path / "m.onnx", tmp_path / "out", "macs", [0.8], vocabulary=KEPT)


# -- files -------------------------------------------------------------------------------------------------


def test_a_file_gets_its_map(tmp_path):
    onnx.save(network(), tmp_path / "model.onnx")
    ids, out = tmp_path / "ids.txt", tmp_path / "small.onnx"
    ids.write_text("\n".join(map(str, KEPT)))
    command_line = ("prune", str(tmp_path / "model.onnx"), "-o", str(out), "--vocabulary", str(ids), "--no-latency")
    shown = invoke(*command_line).stdout
    assert "5 of 20 tokens are kept" in shown.replace("\n", " ")
    mapped = tmp_path / "small.vocabulary.json"
    assert json.loads(mapped.read_text()) == {str(old): new for new, old in enumerate(KEPT)}
    out.unlink()
    assert f"{mapped} exists; give another name" in invoke(*command_line, code=2).stderr
    invoke(*command_line, "--force")


def test_the_list_of_tokens_is_not_replaced(tmp_path):
    onnx.save(network(), tmp_path / "model.onnx")
    ids, out = tmp_path / "small.vocabulary.json", tmp_path / "small.onnx"
    ids.write_text(json.dumps(KEPT))
    command_line = ("prune", str(tmp_path / "model.onnx"), "--vocabulary", str(ids), "--no-latency", "--force", "-o")
    said = invoke(*command_line, str(out), code=2).stderr
    assert f"{ids} is the list of tokens to keep; give the map of ids another name" in said.replace("\n", " ")
    more = ("--report", str(tmp_path / "other.vocabulary.json"))
    said = invoke(*command_line, str(tmp_path / "other.onnx"), *more, code=2).stderr
    assert f"{more[1]} is the map of ids; give the report another name" in said.replace("\n", " ")
    assert json.loads(ids.read_text()) == [*KEPT]


def test_a_folder_with_the_list_of_tokens_is_not_replaced(folder, tmp_path):
    out = tmp_path / "out"
    onnxprune.prune_folder(folder, out, vocabulary=KEPT, latency=False)
    (out / "ids.txt").write_text("3")
    said = invoke("prune", str(folder), "-o", str(out), "--vocabulary", str(out / "ids.txt"), "--force", code=2).stderr
    assert "ids.txt in it is the list of tokens to keep; give another folder" in said.replace("\n", " ")


def test_a_result_in_memory_saves_its_map(tmp_path):
    pruned().save(tmp_path / "small.onnx")
    assert len(json.loads((tmp_path / "small.vocabulary.json").read_text())) == 5


def test_what_is_refused():
    with pytest.raises(OptionError) as error:
        onnxprune.prune(network(), vocabulary=[COUNT], latency=False)
    assert str(error.value) == f"vocabulary: there is no token {COUNT}: ids go from 0 to {COUNT - 1}"
    with pytest.raises(NothingToPrune) as nothing:
        onnxprune.prune(network(), vocabulary=range(COUNT), latency=False)
    assert str(nothing.value) == "nothing to remove: all 20 tokens of the vocabulary are kept"
    with pytest.raises(OptionError, match="vocabulary goes with one round, and without masks"):
        pruned(rounds=2)
    with pytest.raises(OptionError) as error:
        onnxprune.prune(network(), vocabulary=["the"], latency=False)
    assert str(error.value) == (
        "vocabulary: 'the' is no id, and no tokenizer.json, vocab.txt or vocab.json beside the model tells the ids of "
        "tokens: give ids"
    )


def test_a_wrong_cut_is_not_written(monkeypatch):
    right = command.narrowed
    monkeypatch.setattr(command, "narrowed", lambda words, kept: right(words, np.sort((kept + 1) % COUNT)))
    for more in ({}, {"ratio": 0.3}):
        with pytest.raises(VerificationError, match="the pruned model is wrong and was not written"):
            pruned(**more)


def test_a_cut_that_leaves_nothing_else_to_cut_says_what_tokens_came_to():
    with pytest.raises(NothingToPrune, match=r"^with 5 of 20 tokens: nothing to prune"):
        pruned(ratio=0.5, ignore="*")


def test_cuts_of_cuts_are_in_original_indices():
    first = {"a": Cut("a", {0: (1, 3, 5)}), "b": Cut("b", {1: (2,)})}
    second = {"a": {"source": "a", "kept": {"0": [0, 2], "1": [4]}}, "c": {"source": "c", "kept": {"0": [7]}}}
    assert composed(first, second) == {
        "b": {"source": "b", "kept": {"1": [2]}},
        "a": {"source": "a", "kept": {"0": [1, 5], "1": [4]}},
        "c": {"source": "c", "kept": {"0": [7]}},
    }


# -- folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "model"
    made.mkdir()
    onnx.save(network(), made / "model.onnx")
    listed = {"vocab_size": COUNT, "eos_token_id": [17], "pad_token_id": None, "bos_token_id": 4, "hidden_size": 6}
    (made / "config.json").write_text(json.dumps(listed))
    (made / "generation_config.json").write_text(json.dumps({"eos_token_id": 17, "suppress_tokens": [1, 4]}))
    (made / "vocab.txt").write_text("".join(f"w{number}\n" for number in range(COUNT)))
    (made / "spiece.model").write_bytes(b"\0")
    return made


def test_a_folder_follows(folder, tmp_path):
    tokens = ["w0", 3, "w9", "w3", 0]  # two of them twice
    out = tmp_path / "out"
    result = onnxprune.prune_folder(folder, out, vocabulary=tokens, latency=False)
    assert json.loads((out / "config.json").read_text()) == {
        "vocab_size": 5, "eos_token_id": [4], "pad_token_id": None, "bos_token_id": 2, "hidden_size": 6,
    }  # fmt: skip
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": 4, "suppress_tokens": [2]}
    assert (out / "vocab.txt").read_text().split() == [f"w{number}" for number in KEPT]
    assert json.loads((out / "model.vocabulary.json").read_text()) == {str(old): at for at, old in enumerate(KEPT)}
    assert result.settings[-2:] == (
        "vocab.txt: 5 of 20 tokens are left",
        "spiece.model is in a format that is not written, and stays: apply the map of ids to what it gives",
    )
    assert result.files[0].report["vocabulary"]["asked"] == 3
    text = "\n".join(map(str, prune_tables(result.files[0].report)))
    assert "2 of them are special tokens, and parts that the tokenizer makes kept ones of" in text


def test_a_folder_without_a_tokenizer_says_so(folder, tmp_path):
    (folder / "vocab.txt").unlink()
    result = onnxprune.prune_folder(folder, tmp_path / "out", vocabulary=KEPT, latency=False)
    assert "model.onnx: no tokenizer lies beside it: whoever calls it applies the map of ids" in result.settings


def test_a_folder_may_be_cut_again(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for _ in range(2):
        onnxprune.prune_folder(folder, one, vocabulary=KEPT, latency=False, force=True)
    onnxprune.prune_folder(one, two, vocabulary=["w4"], latency=False)
    assert (two / "vocab.txt").read_text().split() == ["w4", "w17"]
    assert json.loads((two / "model.vocabulary.json").read_text()) == {"2": 0, "4": 1}
    widths = tmp_path / "widths"
    onnxprune.prune_folder(one, widths, ratio=0.5, latency=False)
    assert (widths / "model.vocabulary.json").read_bytes() == (one / "model.vocabulary.json").read_bytes()


def test_ids_that_settings_name_are_kept_without_a_tokenizer(folder, tmp_path):
    (folder / "vocab.txt").unlink()
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    (folder / "model.onnx").rename(inner / "model.onnx")
    out = tmp_path / "out"
    onnxprune.prune_folder(folder, out, vocabulary=[0, 3, 9], latency=False)
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == [4]
    assert json.loads((out / "a/b/model.vocabulary.json").read_text()) == {str(old): at for at, old in enumerate(KEPT)}


def test_a_setting_that_names_a_token_that_is_gone_is_an_error(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "named_ids", lambda *_: set())
    with pytest.raises(OptionError) as error:
        onnxprune.prune_folder(folder, tmp_path / "out", vocabulary=[0, 3, 9], latency=False)
    assert str(error.value) == (
        "config.json: vocabulary: eos_token_id names token 17, which is not kept: keep it as well"
    )
    assert not (tmp_path / "out").exists()


def test_all_forms_in_which_settings_hold_ids_follow():
    report = {"groups": [], "vocabulary": {"before": 8, "after": 4, "kept": [1, 3, 6, 7]}}
    settings = {
        "eos_token_ids": [6, 99], "image_token_index": 7, "pad_token_id": {"a": 1}, "bos_token_id": True,
        "forced_decoder_ids": [[1, 3], [2, None]], "bad_words_ids": [[6, 7], [1, 2]], "suppress_tokens": [2, 7],
        "lang_to_id": {"<|de|>": 1, "<|en|>": 2}, "force_words_ids": [[1]], "parts": [{"sep_token_id": 6}],
    }  # fmt: skip
    assert {each for place in places(settings) if place.is_needed for each in place.ids} == {6, 99, 7, 3}
    text, said = adjusted(json.dumps(settings), {"m.onnx": report})
    assert json.loads(text) == {
        "eos_token_ids": [2, 99], "image_token_index": 3, "pad_token_id": {"a": 1}, "bos_token_id": True,
        "forced_decoder_ids": [[1, 1], [2, None]], "bad_words_ids": [[2, 3]], "suppress_tokens": [3],
        "lang_to_id": {"<|de|>": 0}, "force_words_ids": [[1]], "parts": [{"sep_token_id": 2}],
    }  # fmt: skip
    assert "force_words_ids stays, with old ids: its form is not followed. Change it by the map of ids" in said


def test_a_network_of_a_folder_that_takes_no_ids_stays(folder, tmp_path):
    image = model("a = MatMul(x, w)", "y = Relu(a)", x="float[n,6] x", w=(6, 5))
    onnx.save(image, folder / "picture.onnx")
    result = onnxprune.prune_folder(folder, tmp_path / "out", vocabulary=KEPT, latency=False)
    assert [each.why is None for each in result.files] == [True, False]


PLAIN = {"x": IDS, "table": array("other", (COUNT, WIDTH))}


def check_tokens(before, after, feeds=None):
    """Check that a file of a folder computes the same on kept tokens, with their new ids."""
    old = np.array(KEPT)[np.arange(10).reshape(2, 5) % len(KEPT)]
    one, other = (ort.InferenceSession(str(path)) for path in (before, after))
    ids = one.get_inputs()[0].name
    sides = zip((one, other), (old, np.searchsorted(KEPT, old)), strict=True)
    expected, found = (session.run(None, {ids: given, **(feeds or {})}) for session, given in sides)
    for whole, fewer in zip(expected, found, strict=True):
        scores = whole[..., list(KEPT)] if whole.shape[-1] == COUNT else whole
        np.testing.assert_allclose(fewer, scores, rtol=1e-5, atol=1e-6)


def test_a_network_that_has_nothing_else_to_lose_loses_tokens_alone(folder, tmp_path):
    onnx.save(model("y = Gather(table, ids)", **PLAIN), folder / "plain.onnx")
    out = tmp_path / "out"
    result = onnxprune.prune_folder(folder, out, vocabulary=KEPT, ratio=0.5, latency=False)
    words, plain = (each.report for each in result.files)
    assert words["vocabulary"]["kept"] == plain["vocabulary"]["kept"] == [*KEPT]
    assert any(0 < each["kept"] < each["units"] for each in words["groups"])
    (told,) = (
        each for each in result.settings if each.startswith("plain.onnx loses tokens alone: with 5 of 20 tokens")
    )
    assert "figures are of the model that was left" in told
    check_tokens(folder / "plain.onnx", out / "plain.onnx")
    assert plain["verification"]["passed"]


def test_an_encoder_loses_tokens_where_the_decoder_loses_caches_too(tmp_path):
    source, out = tmp_path / "model", tmp_path / "out"
    source.mkdir()
    onnx.save(words(table=array("encoder", (24, WIDTH)), head=(WIDTH, 24)), source / "encoder_model.onnx")
    onnx.save(decoder(), source / "decoder_model.onnx")
    asked = {"targets": {"kv-cache": 0.5}, "change_io": True, "criterion": "l2", "reconstruct": False}
    result = onnxprune.prune_folder(source, out, vocabulary=KEPT, latency=False, **asked)
    sides = {each.name: each.report for each in result.files}
    assert {report["vocabulary"]["after"] for report in sides.values()} == {5}
    assert sides["decoder_model.onnx"]["output"]["cache_bytes"] < sides["decoder_model.onnx"]["input"]["cache_bytes"]
    assert (
        "encoder_model.onnx loses tokens alone: target kv-cache alone was to be met, and it keeps nothing of the past"
    ) in result.settings


def test_a_folder_in_which_tokens_alone_could_go_is_not_written(tmp_path):
    source = tmp_path / "model"
    source.mkdir()
    for name in ("one", "two"):
        onnx.save(
            model("y = Gather(table, ids)", **{**PLAIN, "table": array(name, (COUNT, WIDTH))}), source / f"{name}.onnx"
        )
    with pytest.raises(NothingToPrune, match=r"one\.onnx: with 5 of 20 tokens: .*; two\.onnx: with 5 of 20 tokens: "):
        onnxprune.prune_folder(source, tmp_path / "out", vocabulary=KEPT, ratio=0.5, latency=False)
    assert not (tmp_path / "out").exists()


def test_tables_and_scores_in_files_of_their_own_lose_the_same_tokens(tmp_path):
    source, out = tmp_path / "model", tmp_path / "out"
    source.mkdir()
    onnx.save(model("e = Gather(table, ids)", y="float[n,s,6] e", **PLAIN), source / "embed.onnx")
    head = model("r = Relu(e)", "y = MatMul(r, w)", x="float[n,s,6] e", y="float[n,s,20] y", w=(WIDTH, COUNT))
    onnx.save(head, source / "decoder.onnx")
    result = onnxprune.prune_folder(source, out, vocabulary=KEPT, latency=False)
    decoder_report, embed_report = (each.report["vocabulary"] for each in result.files)
    assert (decoder_report["inputs"], decoder_report["outputs"]) == ([], ["y"])
    assert (embed_report["inputs"], embed_report["outputs"]) == (["ids"], [])
    assert decoder_report["kept"] == embed_report["kept"] == [*KEPT]
    check_tokens(source / "embed.onnx", out / "embed.onnx")
    value = np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype(np.float32)
    before, after = (
        ort.InferenceSession(str(each / "decoder.onnx")).run(None, {"e": value})[0] for each in (source, out)
    )
    np.testing.assert_allclose(after, before[..., list(KEPT)], rtol=1e-5)
    text = "\n".join(map(str, prune_tables(result.files[0].report)))
    assert "5 of 20 tokens are kept; 'y' scores the kept tokens alone" in text


def test_an_output_of_a_file_that_takes_nothing_of_tokens_is_no_score_for_sure(folder, tmp_path):
    onnx.save(model("y = MatMul(x, w)", x="float[n,7] x", y="float[n,20] y", w=(7, COUNT)), folder / "head.onnx")
    with pytest.raises(OptionError) as error:
        onnxprune.prune_folder(folder, tmp_path / "out", vocabulary=KEPT, latency=False)
    assert str(error.value) == (
        "head.onnx: vocabulary: output 'y' has as many entries as there are tokens, and no input is as wide as what a "
        "file with ids gives: whether it scores tokens cannot be told; cut the files one by one"
    )


def test_a_head_with_as_many_classes_as_there_are_segments_scores_no_tokens(tmp_path):
    source, out = tmp_path / "model", tmp_path / "out"
    source.mkdir()
    tables = {"table": array("table", (COUNT, WIDTH)), "kinds": array("kinds", (2, WIDTH))}
    front = ("a = Gather(table, ids)", "b = Gather(kinds, segments)", "e = Add(a, b)")
    encoder = model(*front, x="int64[n,s] ids, int64[n,s] segments", y="float[n,s,6] e", **tables)
    onnx.save(encoder, source / "encoder.onnx")
    head = model("y = MatMul(e, w)", x="float[n,s,6] e", y="float[n,s,2] y", w=(WIDTH, 2))
    onnx.save(head, source / "head.onnx")
    result = onnxprune.prune_folder(source, out, vocabulary=(0, 1, 4), latency=False)
    reports = {each.name: each.report for each in result.files}
    assert reports["encoder.onnx"]["vocabulary"]["kept"] == [0, 1, 4]
    assert reports["head.onnx"] is None
    assert (out / "head.onnx").read_bytes() == (source / "head.onnx").read_bytes()


@pytest.mark.parametrize("more", [{"criterion": "taylor", "scope": "global"}, {"reconstruct": True}, {"sweeps": 2}])
def test_options_that_need_samples_are_no_trouble_for_files_that_lose_tokens_alone(more, folder, tmp_path):
    other = network()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "scores"
    onnx.save(other, folder / "other.onnx")
    result = onnxprune.prune_folder(folder, tmp_path / "out", vocabulary=KEPT, data=samples(), latency=False, **more)
    assert [each.report["vocabulary"]["kept"] for each in result.files] == [[*KEPT]] * 2


@pytest.mark.parametrize("more", [{"samples": 8}, {"metric": "language model"}])
def test_files_of_a_network_that_get_no_samples_get_no_options_of_them(more, folder, tmp_path):
    other = network()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "scores"
    onnx.save(other, folder / "other.onnx")
    out = tmp_path / "out"
    result = onnxprune.prune_folder(folder, out, vocabulary=KEPT, data=samples(), latency=False, **more)
    assert [each.report["vocabulary"]["kept"] for each in result.files] == [[*KEPT]] * 2
    with pytest.raises(OptionError, match=f"{next(iter(more))} .*data"):
        onnxprune.prune_folder(folder, tmp_path / "other", vocabulary=KEPT, latency=False, **more)


def test_all_files_of_a_network_lose_the_same_tokens(folder, tmp_path):
    other = network()
    other.graph.node[-1].output[0] = other.graph.output[0].name = "scores"
    onnx.save(other, folder / "other.onnx")
    out = tmp_path / "out"
    result = onnxprune.prune_folder(folder, out, vocabulary=KEPT, latency=False)
    assert [each.report["vocabulary"]["kept"] for each in result.files] == [[*KEPT]] * 2
    for name in ("model.onnx", "other.onnx"):
        check_tokens(folder / name, out / name)
    later = onnxprune.prune_folder(out, tmp_path / "later", ratio=0.5, latency=False)
    assert all(each.report["verification"]["passed"] for each in later.files)
    with pytest.raises(
        OptionError,
        match=r"vocabulary goes with widths, branches, tuning and tie where each network has one file: model\.onnx and "
        r"other\.onnx hold the same one; cut the tokens of the folder first",
    ):
        onnxprune.prune_folder(folder, tmp_path / "both", vocabulary=KEPT, ratio=0.5, latency=False)


def test_tables_of_other_sizes_that_would_keep_other_tokens_are_refused(folder, tmp_path):
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 22}))
    (folder / "vocab.txt").write_text("".join(f"w{number}\n" for number in range(24)))
    onnx.save(words(table=array("wider", (24, WIDTH)), head=(WIDTH, 24)), folder / "wider.onnx")
    with pytest.raises(
        OptionError, match=r"wider\.onnx would keep 6 tokens and model\.onnx 5 or others, and they share"
    ):
        onnxprune.prune_folder(folder, tmp_path / "out", vocabulary=KEPT, latency=False)


def test_settings_of_a_vocabulary_of_another_size_stay():
    report = {"groups": [], "vocabulary": {"before": 8, "after": 2, "kept": [1, 6]}}
    text, said = adjusted('{"vocab_size": 10, "sep_token_id": 6}', {"m.onnx": report})
    assert json.loads(text) == {"vocab_size": 10, "sep_token_id": 1}
    assert said == ["sep_token_id 6 became 1"]
