"""Text files beside a model are read within bounds, those that are held together within one."""

from __future__ import annotations

import json

import pytest

from onnxprune.commands.beside import text_files
from onnxprune.commands.beside.ids_in_settings import named_ids
from onnxprune.commands.beside.text_files import json_of, texts_within
from onnxprune.commands.beside.tokenizer import ids_of
from onnxprune.commands.beside.tokenizer_files import read_tokenizer
from onnxprune.commands.beside.tokenizer_text import reader_of
from onnxprune.commands.folders.settle import PrunedFile, settle
from onnxprune.errors import InputError, OptionError

FILES = {
    "tokenizer.json": json.dumps({"model": {"vocab": {f"t{number}": number for number in range(40)}}}),
    "vocab.txt": "".join(f"t{number}\n" for number in range(40)),
    "vocab.json": json.dumps({f"t{number}": number for number in range(40)}),
}
DEEP = "[" * 70 + "]" * 70


@pytest.fixture
def folder(tmp_path):
    """A folder with three files of a tokenizer, each of 40 parts and less than 500 signs."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_files_that_are_held_together_share_one_bound(folder, monkeypatch):
    lengths = [len(text) for text in FILES.values()]
    monkeypatch.setattr(text_files, "_MOST_SIGNS", sum(lengths))
    assert read_tokenizer(folder).known["t39"] == 39
    monkeypatch.setattr(text_files, "_MOST_SIGNS", sum(lengths) - 1)
    assert max(lengths) < sum(lengths) - 1, "each alone is within the bound"
    signs = f"at most {sum(lengths) - 1:,} signs together with tokenizer.json, vocab.txt"
    told = f"{folder / 'vocab.json'} does not hold {signs}"
    with pytest.raises(InputError) as caught:
        read_tokenizer(folder)
    assert str(caught.value) == told
    assert reader_of(folder).why_none == told
    with pytest.raises(OptionError) as refused:
        ids_of(["t1"], folder)
    advice = "mend it, or take it away and apply the map of ids to what it gives"
    assert str(refused.value) == f"vocabulary: {told}: {advice}"


def test_so_do_parts_and_a_single_file_is_named_alone(folder, monkeypatch):
    monkeypatch.setattr(text_files, "_MOST_PARTS", 100)
    with pytest.raises(
        InputError, match=r"vocab.json does not hold at most 100 parts together with tokenizer.json, vocab"
    ):
        read_tokenizer(folder)
    with pytest.raises(
        InputError, match=r"tokenizer.json does not hold at most 100 parts together with vocab.json, vocab"
    ):
        texts_within(folder, ["vocab.json", "vocab.txt", "tokenizer.json"])
    monkeypatch.setattr(text_files, "_MOST_PARTS", 30)
    with pytest.raises(InputError, match=r"tokenizer.json does not hold at most 30 parts$"):
        read_tokenizer(folder)


def test_no_more_of_a_file_is_read_than_is_left(folder, monkeypatch):
    (folder / "vocab.json").write_bytes(b"a" * 10**6 + b"\xff")
    monkeypatch.setattr(text_files, "_MOST_SIGNS", 900)
    with pytest.raises(InputError, match=r"vocab.json does not hold at most 900 signs"):  # or else: no text in UTF-8
        texts_within(folder, ["vocab.json"])


@pytest.mark.parametrize("text", [DEEP, "[" * 100_000])
def test_json_has_levels_that_one_can_walk_through(text, tmp_path):
    with pytest.raises(InputError, match=r"config.json does not hold at most 64 levels$"):
        json_of(tmp_path / "config.json", text)
    with pytest.raises(ValueError, match="Expecting value"):
        json_of(tmp_path / "config.json", "no JSON")


def test_settings_are_read_within_bounds_each_for_itself(tmp_path, monkeypatch):
    model = tmp_path / "m.onnx"
    for name, text in (("config.json", '{"bos_token_id": 1}'), ("generation_config.json", '{"eos_token_id": 2}')):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(text_files, "_MOST_SIGNS", 25)
    assert named_ids(model) == {1, 2}
    monkeypatch.setattr(text_files, "_MOST_SIGNS", 10)
    with pytest.raises(InputError, match=r"config.json does not hold at most 10 signs: mend it, or take it away$"):
        named_ids(model)


@pytest.mark.parametrize(
    ("content", "why"),
    [(DEEP.encode(), "does not hold at most 64 levels"), (b"\xff", "does not hold text in UTF-8")],
)
def test_settings_that_cannot_be_read_stay_and_it_is_said(content, why, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert [*settle(tmp_path, [PrunedFile("m.onnx", {})])] == [f"config.json {why}: it stays as it is"]
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_folder_that_is_called_as_settings_is_none(tmp_path):
    (tmp_path / "config.json").mkdir()
    assert [*settle(tmp_path, [PrunedFile("m.onnx", {})])] == []
