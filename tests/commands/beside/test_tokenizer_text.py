"""The text of ids: what Hugging Face's tokenizers give (0.22.2, recorded), and what other files say."""

from __future__ import annotations

import json

import pytest

from onnxprune.commands.beside import text_files
from onnxprune.commands.beside.tokenizer_files import symbols_of_bytes
from onnxprune.commands.beside.tokenizer_text import reader_of
from onnxprune.evaluation.examples import Reader

BLANKS = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
DOUBLED = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
BYTES = [{"type": "ByteFallback"}, {"type": "Fuse"}]
FRONT = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
ALWAYS, NEVER, FIRST = ({"type": "Metaspace", "prepend_scheme": each} for each in ("always", "never", "first"))
RECORDED = [  # decoder, tokens, Decoder.decode(tokens)
    ({"type": "ByteLevel"}, ["The", "Ġcat", "ĠâĤ", "¬", "<|end|>", "Ã"], "The cat €<|end|>\ufffd"),
    (
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        ["[CLS]", "un", "##aff", "##able", ",", "do", "not", "is", "##n't", ".", "[SEP]"],
        "[CLS] unaffable, do not isn't. [SEP]",
    ),
    ({"type": "WordPiece", "prefix": "##", "cleanup": False}, ["a", ".", "##b"], "a .b"),
    ({"type": "WordPiece"}, ["##ing"], "##ing"),
    (ALWAYS, ["▁The", "▁cat", "s", "▁▁x"], "The cats  x"),
    (NEVER, ["▁The", "▁cat"], " The cat"),
    (FIRST, ["▁▁The", "▁cat"], "The cat"),
    ({"type": "BPEDecoder", "suffix": "</w>"}, ["lo", "wer</w>", "cat</w>"], "lower cat"),
    ({"type": "Strip", "content": "x", "start": 2, "stop": 1}, ["xxxaxx", "bx"], "xaxb"),
    (
        {"type": "Sequence", "decoders": [BLANKS, *BYTES, FRONT]},
        ["▁▁Hi", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "<0xFE>", "▁x"],
        " Hi\ufffd\ufffd\ufffd\ufffd\ufffd x",
    ),
    (
        {"type": "Sequence", "decoders": [*BYTES, BLANKS, {"type": "ByteLevel"}]},
        ["The", "Ġcat", "<0xE2>", "<0x82>", "<0xAC>"],
        "TheĠcat€",
    ),
    (None, ["two", "words"], "two words"),
]  # fmt: skip


def tokenizer(folder, decoder, tokens, **more):
    model = {
        "type": "BPE",
        "vocab": {token: number for number, token in enumerate(dict.fromkeys(tokens))},
        "merges": [],
    }
    stated = {"model": model, "decoder": decoder, **more}
    (folder / "tokenizer.json").write_text(json.dumps(stated), encoding="utf-8")
    return model["vocab"]


@pytest.mark.parametrize(("decoder", "tokens", "text"), RECORDED)
def test_a_tokenizer_says_how_its_tokens_become_text(decoder, tokens, text, tmp_path):
    ids = tokenizer(tmp_path, decoder, tokens)
    assert reader_of(tmp_path).text([ids[token] for token in tokens]) == text


def test_added_tokens_are_known_and_others_are_not(tmp_path):
    tokenizer(tmp_path, {"type": "ByteLevel"}, ["a"], added_tokens=[{"id": 7, "content": "<|end|>"}])
    text = reader_of(tmp_path).text
    assert (text([0, 7]), text([]), text([0, 3])) == ("a<|end|>", "", None)


def test_a_list_of_pieces_is_read_by_their_order(tmp_path):
    model = {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁Hello", -1.0], ["▁world", -2.0]]}
    stated = {"model": model, "decoder": {"type": "Metaspace", "replacement": "▁"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stated), encoding="utf-8")
    assert reader_of(tmp_path).text([1, 2]) == "Hello world"


def test_lines_of_tokens_are_word_pieces(tmp_path):
    (tmp_path / "vocab.txt").write_text("[CLS]\nplay\n##ing\n!\n", encoding="utf-8")
    assert reader_of(tmp_path).text([0, 1, 2, 3]) == "[CLS] playing!"


def test_a_list_with_a_symbol_for_each_byte_is_of_bytes(tmp_path):
    symbols = {symbol: byte for byte, symbol in symbols_of_bytes().items()}
    (tmp_path / "vocab.json").write_text(json.dumps({**symbols, "Ġthe": 256}), encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<end>": 257}', encoding="utf-8")
    assert reader_of(tmp_path).text([*"né".encode(), 256, 257]) == "né the<end>"


def test_half_of_a_character_is_a_sign(tmp_path):
    ids = tokenizer(tmp_path, None, ["\ud800"])
    assert reader_of(tmp_path).text([*ids.values()]) == "?"


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "CTC"},
        {"type": ["ByteLevel"]},
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
        {"type": "Replace", "pattern": "a", "content": ""},
        {"type": "Replace", "pattern": {"String": "a"}},
        {"type": "Strip", "content": " ", "start": "1"},
        {"type": "Metaspace", "replacement": 3},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {}]},
        {"type": "Replace", "pattern": {"String": ""}, "content": "b"},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 65},
        {"type": "BPEDecoder", "suffix": ""},
        {"type": "Metaspace", "replacement": ""},
        {"type": "Strip", "content": "a", "start": -1},
        {"type": "Strip", "content": "a", "stop": -1},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}] * 33},
    ],
)
def test_a_step_that_is_not_known_leaves_ids(decoder, tmp_path):
    tokenizer(tmp_path, decoder, ["a"])
    assert reader_of(tmp_path).text is None


@pytest.mark.parametrize(
    ("decoder", "tokens", "is_text"),
    [
        ({"type": "Sequence", "decoders": [DOUBLED] * 14}, ["a"], True),  # 16,384 signs
        ({"type": "Sequence", "decoders": [DOUBLED] * 15}, ["a"], False),
        ({"type": "Sequence", "decoders": [DOUBLED] * 15 + [{**DOUBLED, "content": ""}]}, ["a"], False),
        ({"type": "Sequence", "decoders": [{"type": "ByteFallback"}] * 32}, ["a", "<0x62>"], True),
        ({"type": "Fuse"}, ["a" * 512], True),
        ({"type": "Fuse"}, ["a" * 513], False),
        ({"type": "Fuse"}, [f"{number:0512}" for number in range(33)], False),
    ],
)
def test_a_text_does_not_grow_without_bound(decoder, tokens, is_text, tmp_path):
    ids = tokenizer(tmp_path, decoder, tokens)
    assert (reader_of(tmp_path).text([*ids.values()]) is not None) is is_text


DEEP = '{"type": "Sequence", "decoders": [' * 300 + '{"type": "Fuse"}' + "]}" * 300


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"model": {"vocab": {"a": "b"}}}',
        "[" * 100_000,
        f'{{"model": {{"vocab": {{"a": 0}}}}, "decoder": {DEEP}}}',  # deeper than what walks through it goes
        '{"model": {"vocab": {"a": 0}, "merges": 5}}',
        '{"model": {"vocab": {"a": 0}, "merges": true}}',
    ],
    ids=["cut", "list", "no id", "nested", "deep decoder", "number of merges", "true merges"],
)
def test_a_file_that_is_none_leaves_ids(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    assert reader_of(tmp_path).text is None


def test_without_a_tokenizer_there_is_no_text(tmp_path):
    assert reader_of(None) == reader_of(tmp_path) == Reader()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("tokenizer.json", "{" + " " * 200, "does not hold at most 200 signs"),
        ("tokenizer.json", "[" + "[]," * 30 + "0]", "does not hold at most 50 parts"),
        ("vocab.txt", "\n" * 51, "does not hold at most 50 parts"),
        ("tokenizer.json", "[" * 50, "does not hold at most 64 levels"),
    ],
)
def test_a_file_that_holds_too_much_is_not_read_and_it_is_said_why(name, text, why, tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_MOST_SIGNS", 200)
    monkeypatch.setattr(text_files, "_MOST_PARTS", 50)
    if "levels" in why:
        monkeypatch.undo()
        text *= 2_000
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert reader_of(tmp_path) == Reader(why_none=f"{tmp_path / name} {why}")


def test_steps_that_are_not_known_are_told(tmp_path):
    tokenizer(tmp_path, {"type": "CTC"}, ["a"])
    path = tmp_path / "tokenizer.json"
    assert reader_of(tmp_path).why_none == f"{path} states steps from tokens to text that are not known here"
