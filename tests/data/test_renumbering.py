"""Samples of ids follow a smaller vocabulary; and tokens to keep, as they are given."""

from __future__ import annotations

import json

import numpy as np
import pytest

from onnxprune.data.renumbering import renumbered
from onnxprune.data.samples import Data, load_data
from onnxprune.data.tokens import read_tokens
from onnxprune.errors import DataError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.surgery.vocabulary import new_ids

IDS = new_ids(6, np.array([1, 2, 5]))


def of(ids, **more):
    arrays = {"ids": np.array(ids), **more}
    return Data(arrays, None, len(ids))


def test_samples_with_tokens_that_are_gone_are_left_out():
    found = renumbered(of([[1, 2], [2, 3], [5, 5]]), IDS, ["ids"])
    assert found.left_out == 1
    np.testing.assert_array_equal(found.data.take([0, 1])["ids"], [[0, 1], [2, 2]])


def test_what_a_mask_leaves_out_may_be_gone():
    mask = np.array([[1, 1], [1, 0]])
    found = renumbered(of([[1, 3], [2, 3]], mask=mask), IDS, ["ids"], ["mask"])
    assert found.left_out == 1
    np.testing.assert_array_equal(found.data.take([0])["ids"], [[1, 0]])


def test_samples_of_several_lengths_follow():
    ports = [Port("ids", np.dtype(np.int64), ("n", "s"))]
    data = load_data([{"ids": np.array([[1, 2]])}, {"ids": np.array([[5]])}, {"ids": np.array([[4]])}], ports)
    found = renumbered(data, IDS, ["ids"])
    assert [found.data.take([row])["ids"].tolist() for row in range(found.data.count)] == [[[0, 1]], [[2]]]


def test_labels_that_are_tokens_follow():
    data = Data({"ids": np.array([[1], [2], [2]])}, np.array([5, 3, 1]), 3)
    found = renumbered(data, IDS, ["ids"], labels=True)
    assert (found.left_out, found.data.labels.tolist()) == (1, [2, 0])


def test_no_sample_left_is_an_error():
    with pytest.raises(DataError) as error:
        renumbered(of([[0, 3], [3, 3]]), IDS, ["ids"])
    assert str(error.value) == (
        "none of 2 samples is made of kept tokens alone: all hold ids that the vocabulary lacks, most of them 3, 0; "
        "keep these, or give other samples"
    )


def test_what_is_no_id_is_an_error():
    with pytest.raises(DataError) as error:
        renumbered(of([[1, 6]]), IDS, ["ids"])
    assert str(error.value) == "input 'ids': sample 0 holds 6, but ids go from 0 to 5"


@pytest.mark.parametrize(
    ("labels", "shown"), [([1, -100], "-100"), ([1, 99], "99"), ([1, -1], "-1"), ([1.0, 0.5], "1.0")]
)
def test_labels_that_are_no_ids_are_an_error(labels, shown):
    data = Data({"ids": np.array([[1], [2]])}, np.array(labels), 2)
    with pytest.raises(DataError) as error:
        renumbered(data, IDS, ["ids"], labels=True)
    assert str(error.value) == (
        f"labels: that of sample {int(shown != '1.0')} is {shown}, but the model scores tokens, whose ids go from 0 to "
        "5: give labels that are ids, or samples without labels"
    )
    assert renumbered(data, IDS, ["ids"]).left_out == 0


# -- tokens to keep ----------------------------------------------------------------------------------------


def test_tokens_in_files(tmp_path):
    lines, listed = tmp_path / "ids.txt", tmp_path / "tokens.json"
    lines.write_text("3\n\n1\n3\n")
    listed.write_text(json.dumps([2, "the"]))
    assert read_tokens(lines) == (3, 1)
    assert read_tokens(str(listed)) == (2, "the")
    assert read_tokens(np.arange(3)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ids.txt", "1\ntwo\n", "line 2 is 'two': expected one id a line"),
        ("ids.txt", "", "it is empty: expected one id a line"),
        ("tokens.json", "{", "it is no JSON: "),
        ("tokens.json", '{"a": 1}', "expected one id a line (ids.txt), or a JSON list of ids and tokens (tokens.json)"),
        ("tokens.json", "[1.5]", "1.5 is neither an id nor a token"),
        ("tokens.json", "[-1]", "-1 is neither an id nor a token"),
    ],
)
def test_what_is_no_list_of_tokens(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(OptionError) as error:
        read_tokens(path)
    assert str(error.value).startswith(f"vocabulary {path}: ")
    assert said in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        read_tokens(tmp_path / "ids.txt")
