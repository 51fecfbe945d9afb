"""Files of tokenizers with fewer tokens: they split what is left as before."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from onnxprune.commands.beside.tokenizer import folder_of, ids_of, needed, reduced
from onnxprune.errors import OptionError

MERGES = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d"), ("h", "e"), ("the", "n"), ("e", "n")]
TOKENS = ["<s>", *"abdehnt", *(one + other for one, other in MERGES)]


def bpe(**more):
    return {
        "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
        "post_processor": {"type": "TemplateProcessing", "special_tokens": {"<s>": {"id": "<s>", "ids": [0]}}},
        "model": {
            "type": "BPE",
            "vocab": {text: number for number, text in enumerate(TOKENS)},
            "merges": [f"{one} {other}" for one, other in MERGES],
        },
        **more,
    }


def split(stated, text):
    """Return the tokens of a text, by the merges in their order (Sennrich et al., 2016, algorithm 1)."""
    parts = [*text]
    ranks = {tuple(merge.split(" ")): at for at, merge in enumerate(stated["model"]["merges"])}
    while best := min((pair for pair in pairwise(parts) if pair in ranks), key=ranks.__getitem__, default=None):
        at = next(place for place, pair in enumerate(pairwise(parts)) if pair == best)
        parts[at : at + 2] = ["".join(best)]
    return [stated["model"]["vocab"].get(part) for part in parts]


def written(folder, stated, name="tokenizer.json"):
    (folder / name).write_text(json.dumps(stated))
    return folder


def after(folder, ids):
    """Reduce a folder to some tokens and what these need; return its tokenizer, the kept ids, and what was said."""
    kept = sorted({*ids, *needed(folder, ids)})
    said = [*reduced(folder, kept)]
    return json.loads((folder / "tokenizer.json").read_text()), kept, said


def test_a_text_of_kept_tokens_is_split_as_before(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        ids = rng.permutation(len(TOKENS))[:4].tolist()
        stated, kept, _ = after(written(folder, bpe()), ids)
        new = {old: at for at, old in enumerate(kept)}
        for text in ("then", "and", "hand", "the", "bathe", "ten", "neat"):
            before = split(bpe(), text)
            if set(before) <= set(kept):
                assert split(stated, text) == [new[each] for each in before]


def test_merges_and_ids_of_what_is_gone_go(tmp_path):
    stated, kept, said = after(written(tmp_path, bpe()), [TOKENS.index("the")])
    assert [TOKENS[old] for old in kept] == ["<s>", "e", "h", "t", "th", "the", "he"][: len(kept)]
    assert stated["model"]["merges"] == ["t h", "th e"]
    assert stated["model"]["vocab"] == {TOKENS[old]: new for new, old in enumerate(kept)}
    assert said == [f"tokenizer.json: {len(kept)} of {len(TOKENS)} tokens are left"]


def test_merges_as_pairs(tmp_path):
    stated = bpe()
    stated["model"]["merges"] = [list(pair) for pair in MERGES]
    assert after(written(tmp_path, stated), [TOKENS.index("an")])[0]["model"]["merges"] == [["a", "n"]]


def test_ids_around_a_text_and_of_padding_follow(tmp_path):
    stated = bpe(
        added_tokens=[{"id": 4, "content": "e"}],
        post_processor={"processors": [{"sep": ["t", 7], "cls": ["n", 6]}]},
        padding={"pad_id": 4},
    )
    found, kept, _ = after(written(tmp_path, stated), [1])
    assert kept == [1, 4, 6, 7]
    assert found["added_tokens"] == [{"id": 1, "content": "e"}]
    assert found["post_processor"]["processors"] == [{"sep": ["t", 3], "cls": ["n", 2]}]
    assert found["padding"] == {"pad_id": 1}


def test_pieces_in_their_order(tmp_path):
    pieces = [["<unk>", 0.0], ["a", -1.5], ["b", -2.0], ["ab", -2.5]]
    stated = {"model": {"type": "Unigram", "unk_id": 0, "vocab": pieces}}
    found, kept, _ = after(written(tmp_path, stated), [3, 1])
    assert kept == [0, 1, 3]
    assert found["model"] == {"type": "Unigram", "unk_id": 0, "vocab": [pieces[0], pieces[1], pieces[3]]}


def test_words_with_an_unknown_one(tmp_path):
    known = {"[UNK]": 0, "a": 1, "##b": 2}
    stated = {"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": known}}
    assert after(written(tmp_path, stated), [2])[0]["model"]["vocab"] == {"[UNK]": 0, "##b": 1}


def test_files_of_older_tokenizers(tmp_path):
    written(tmp_path, {text: number for number, text in enumerate(TOKENS)}, "vocab.json")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in MERGES))
    written(tmp_path, {"<extra>": 3}, "added_tokens.json")
    written(tmp_path, {"added_tokens_decoder": {"0": {"content": "<s>"}}}, "tokenizer_config.json")
    ids = ids_of(["an", 0], tmp_path)
    kept = sorted(ids | needed(tmp_path, ids))
    assert [TOKENS[old] for old in kept] == ["<s>", "a", "d", "n", "an"]
    said = [*reduced(tmp_path, kept)]
    assert json.loads((tmp_path / "vocab.json").read_text()) == {TOKENS[old]: new for new, old in enumerate(kept)}
    assert (tmp_path / "merges.txt").read_text() == "#version: 0.2\na n\n"
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == {"<extra>": 2}
    assert "merges.txt: 1 of 7 merges are left" in said


def nested(levels):
    return [nested(levels - 1)] if levels else 0


def with_model(**more):
    stated = bpe()
    return {**stated, "model": {**stated["model"], **more}}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokenizer.json", [1, 2], "a model with a vocabulary of tokens"),
        ("tokenizer.json", {"model": {}}, "a model with a vocabulary of tokens"),
        ("tokenizer.json", with_model(vocab={"a": [0]}), "one id for each token"),
        ("tokenizer.json", with_model(merges=["t h e"]), "merges of two parts each"),
        ("tokenizer.json", with_model(merges=5), "merges of two parts each"),
        ("tokenizer.json", bpe(decoder=nested(64)), "at most 64 levels"),
        ("tokenizer.json", bpe(added_tokens=[{"content": "<s>"}]), "an id for each added token"),
        ("tokenizer.json", bpe(added_tokens=[{"id": 0}]), "a text for each added token"),
        (
            "tokenizer.json",
            bpe(post_processor={"special_tokens": {"<s>": {"id": "<s>"}}}),
            "ids of the tokens that are put around a text",
        ),
        ("tokenizer_config.json", [], "a JSON object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"a": {}}}, "added tokens by id"),
        ("vocab.json", {"a": ["b"]}, "one id for each token"),
        ("added_tokens.json", {"a": None}, "one id for each token"),
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path, name, value, said):
    written(tmp_path, value, name)
    for look in (lambda: needed(tmp_path, [1]), lambda: [*reduced(tmp_path, [1])]):
        with pytest.raises(OptionError) as error:
            look()
        assert str(error.value) == (
            f"vocabulary: {tmp_path / name} does not hold {said}: mend it, or take it away and apply the map of ids to "
            "what it gives"
        )


def test_what_is_no_text_or_no_json_is_an_error(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xff")
    with pytest.raises(OptionError, match=f"vocabulary: {path} does not hold text in UTF-8: mend it"):
        needed(tmp_path, [0])
    path.unlink()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(OptionError, match=f"vocabulary: {tmp_path / 'tokenizer.json'} is no JSON: "):
        needed(tmp_path, [0])
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(OptionError, match=f"vocabulary: {tmp_path / 'tokenizer.json'} does not hold at most 64 levels"):
        needed(tmp_path, [0])


def test_half_a_character_stays_as_it_was(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "\\ud83d": 1, "b": 2}')
    assert [*reduced(tmp_path, [1, 2])] == ["vocab.json: 2 of 3 tokens are left"]
    assert (tmp_path / "vocab.json").read_text() == '{"\\ud83d": 0, "b": 1}'


@pytest.mark.parametrize("part", ["pre_tokenizer", "decoder"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_alphabet_of_bytes_stays(tmp_path, part, nested):
    level = {"type": "ByteLevel"}
    more = {part: {"type": "Sequence", "pretokenizers" if part == "pre_tokenizer" else "decoders": [level]}}
    known = {"!": 0, "\u0120": 1, "\u4e00": 2, "ab": 3, "Z": 4, "Z</w>": 5}
    stated = {"model": {"type": "BPE", "vocab": known}, **(more if nested else {part: level})}
    assert needed(written(tmp_path, stated), []) == {0, 1, 4}
    stated["model"]["end_of_word_suffix"] = "</w>"
    assert needed(written(tmp_path, stated), []) == {0, 1, 4, 5}
    stated[part] = None
    assert needed(written(tmp_path, stated), []) == set()


def test_the_bytes_of_a_fallback_stay(tmp_path):
    stated = with_model(byte_fallback=True)
    stated["model"]["vocab"] |= {"<0x00>": 20, "<0xFF>": 21, "<0xff>": 22}
    assert needed(written(tmp_path, stated), []) == {0, 20, 21}


def test_a_vocab_json_of_all_bytes_keeps_them(tmp_path):
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(256, 324)]
    known = {chr(code): number for number, code in enumerate(printable)}
    assert needed(written(tmp_path, {**known, "word": 256}, "vocab.json"), [256]) == set(range(257))
    del known["!"]
    assert needed(written(tmp_path, {**known, "word": 256}, "vocab.json"), [256]) == {256}


def test_tokens_may_hold_any_blank_that_ends_no_line(tmp_path):
    blanks = ["a\u2028b", "\u0085", "\x0b", "\x1c", ""]
    (tmp_path / "vocab.txt").write_text("".join(f"{each}\n" for each in [*blanks, "last"]), encoding="utf-8")
    assert ids_of(["last"], tmp_path) == {5}
    assert [*reduced(tmp_path, [0, 1, 5])] == ["vocab.txt: 3 of 6 tokens are left"]
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8") == "a\u2028b\n\u0085\nlast\n"


def test_merges_may_hold_any_blank_that_ends_no_line(tmp_path):
    written(tmp_path, {"\u2028": 0, "a": 1, "\u2028a": 2}, "vocab.json")
    (tmp_path / "merges.txt").write_text("\u2028 a\n", encoding="utf-8")
    assert needed(tmp_path, [2]) == {0, 1, 2}
    assert "merges.txt: 1 of 1 merges are left" in reduced(tmp_path, [0, 1, 2])
    assert (tmp_path / "merges.txt").read_text(encoding="utf-8") == "\u2028 a\n"


def test_special_tokens_that_are_named_by_text_stay(tmp_path):
    words = ["[PAD]", "[UNK]", "<cls>", "a", "<x>", "<y>", "[MASK]", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    assert needed(tmp_path, [7]) == {0, 1, 6, 7}
    written(tmp_path, {"cls_token": {"content": "<cls>"}, "do_lower_case": True}, "tokenizer_config.json")
    written(tmp_path, {"additional_special_tokens": ["<x>", {"content": "<y>"}]}, "special_tokens_map.json")
    assert needed(tmp_path, [7]) == {0, 1, 2, 4, 5, 6, 7}


def test_merges_with_a_prefix_of_what_goes_on(tmp_path):
    stated = {
        "model": {
            "type": "BPE", "continuing_subword_prefix": "##",
            "vocab": {"a": 0, "##b": 1, "ab": 2, "##c": 3, "abc": 4, "x": 5}, "merges": ["a ##b", "ab ##c"],
        }
    }  # fmt: skip
    found, kept, _ = after(written(tmp_path, stated), [4])
    assert kept == [0, 1, 2, 3, 4]
    assert found["model"]["merges"] == ["a ##b", "ab ##c"]


def test_an_added_token_without_a_row_goes(tmp_path):
    stated = bpe(added_tokens=[{"id": 0, "content": "<s>"}, {"id": 99, "content": "<far>"}])
    [*reduced(written(tmp_path, stated), [0, 1])]
    assert json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"] == [{"id": 0, "content": "<s>"}]


def test_the_folder_of_a_tokenizer(tmp_path, monkeypatch):
    assert folder_of(tmp_path / "model.onnx") is None
    written(tmp_path, bpe())
    assert folder_of(tmp_path / "model.onnx") == tmp_path
    assert folder_of(tmp_path / "onnx" / "model.onnx") == tmp_path
    assert folder_of(tmp_path / "other" / "model.onnx") is None
    (tmp_path / "onnx").mkdir()
    monkeypatch.chdir(tmp_path / "onnx")
    assert folder_of(Path("model.onnx")) == tmp_path


def test_a_token_that_is_none(tmp_path):
    with pytest.raises(OptionError) as error:
        ids_of(["the", "zebra", "emu"], written(tmp_path, bpe()))
    assert str(error.value) == f"vocabulary: the tokenizer in {tmp_path} has no token 'zebra' and 1 more"
