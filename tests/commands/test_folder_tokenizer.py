"""Files of tokenizers with fewer tokens: they split what is left as before."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from onnxprune.commands.folder_tokenizer import folder_of, ids_of, needed, reduced
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


def test_what_is_not_understood_stays(tmp_path):
    written(tmp_path, [1, 2])
    assert [*reduced(tmp_path, [0])] == [
        "tokenizer.json is not understood and stays: whoever calls the model applies the map of ids"
    ]


def test_the_folder_of_a_tokenizer(tmp_path):
    assert folder_of(tmp_path / "model.onnx") is None
    written(tmp_path, bpe())
    assert folder_of(tmp_path / "model.onnx") == tmp_path
    assert folder_of(tmp_path / "onnx" / "model.onnx") == tmp_path
    assert folder_of(tmp_path / "other" / "model.onnx") is None


def test_a_token_that_is_none(tmp_path):
    with pytest.raises(OptionError) as error:
        ids_of(["the", "zebra", "emu"], written(tmp_path, bpe()))
    assert str(error.value) == f"vocabulary: the tokenizer in {tmp_path} has no token 'zebra' and 1 more"
