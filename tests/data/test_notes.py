"""Notes: what was written is read again, bit for bit, and what is damaged counts as missing."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.data.notes import NOWHERE, Notes
from onnxprune.errors import InputError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ARRAYS = st.dictionaries(
    st.text(max_size=5),
    hnp.arrays(st.sampled_from(["f4", "f2", "f8", "i8", "u1", "?"]), hnp.array_shapes(min_dims=0, min_side=0)),
    max_size=3,
)


@given(name=st.text(), plain=st.dictionaries(st.text(), PLAIN, max_size=3), arrays=ARRAYS)
def test_what_is_written_is_read(name, plain, arrays):
    with tempfile.TemporaryDirectory() as folder:
        notes = Notes(Path(folder) / "notes")
        assert notes.read(name) is None
        notes.write(name, plain, arrays)
        note = notes.read(name)
        assert note.plain == plain
        assert note.arrays.keys() == arrays.keys()
        for key, array in arrays.items():
            assert (note.arrays[key].dtype, note.arrays[key].shape) == (array.dtype, array.shape)
            assert note.arrays[key].tobytes() == array.tobytes()


def test_types_that_numpy_does_not_know(tmp_path):
    array = np.array([[1.5, -2.0], [math.inf, 0.0]], ml_dtypes.bfloat16)
    Notes(tmp_path).write("a", {}, {"w": array})
    read = Notes(tmp_path).read("a").arrays["w"]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read, array)


def test_topics_are_apart(tmp_path):
    notes = Notes(tmp_path)
    notes.of("one").write("loss", {"value": 1})
    notes.of("two").write("loss", {"value": 2})
    assert notes.read("loss") is None
    assert [notes.of(topic).read("loss").plain["value"] for topic in ("one", "two")] == [1, 2]
    assert notes.of("one").of("two").read("loss") is None


def test_a_later_note_takes_the_place(tmp_path):
    notes = Notes(tmp_path)
    for value in (1, 2):
        notes.write("loss", {"value": value})
    assert notes.read("loss").plain == {"value": 2}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:40], lambda c: b"", lambda c: c[:50] + b"?" + c[51:]]
)
def test_a_damaged_note_counts_as_missing(tmp_path, damage):
    notes = Notes(tmp_path)
    notes.write("loss", {"value": 1}, {"w": np.arange(3)})
    path = next(tmp_path.iterdir())
    path.write_bytes(damage(path.read_bytes()))
    assert notes.read("loss") is None


def test_a_note_of_another_name_counts_as_missing(tmp_path):
    notes = Notes(tmp_path)
    notes.write("one", {"value": 1})
    notes.write("two", {"value": 2})
    one, two = tmp_path.iterdir()
    one.write_bytes(two.read_bytes())
    assert sum(notes.read(name) is None for name in ("one", "two")) == 1


def test_nothing_is_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    NOWHERE.write("loss", {"value": 1})
    assert NOWHERE.of("topic").read("loss") is None
    NOWHERE.remove()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "notes").write_text("a file is in the way")
    with pytest.raises(
        InputError, match=r"what was measured cannot be saved: .*; notes before it are whole, go on with"
    ):
        Notes(tmp_path / "notes").write("loss", {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_removing_leaves_what_others_put_there(tmp_path):
    notes = Notes(tmp_path / "notes")
    notes.write("loss", {})
    (tmp_path / "notes" / "own.txt").write_text("")
    notes.remove()
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["own.txt"]
    (tmp_path / "notes" / "own.txt").unlink()
    notes.remove()
    assert not (tmp_path / "notes").exists()


def test_a_note_of_which_nothing_can_be_made_counts_as_missing(tmp_path):
    notes = Notes(tmp_path)
    notes.write("loss", {"loss": "much"})
    assert notes.value("loss", lambda note: float(note.plain["loss"])) is None
    assert notes.value("loss", lambda note: note.plain["other"]) is None
    assert notes.value("loss", lambda note: note.plain["loss"]) == "much"
    assert notes.value("none", lambda note: 1) is None
