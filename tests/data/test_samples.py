"""Data files: what is accepted, and what each refusal says."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.commands import prune
from onnxprune.data import samples as module
from onnxprune.data.batching import BatchSize, batch_of
from onnxprune.data.columns import Column, gathered
from onnxprune.data.samples import Data, files_of, limit, load_data, pieces, split, with_shapes
from onnxprune.errors import DataError, InputError, OptionError
from onnxprune.graph.ports import Port
from onnxprune.planning.options import make_options

X = Port("x", np.dtype("f4"), ("n", 3))
IDS = Port("ids", np.dtype("i8"), ("n", "seq"))
ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)
TAKES_X = "the model takes 'x' float32 [n, 3]"


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


def message(path, *inputs):
    """Return what `load_data` says against a file, without the path in front."""
    with pytest.raises(DataError) as caught:
        load_data(path, inputs)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


# -- what is accepted --------------------------------------------------------------------------------------


def test_arrays_and_labels(save):
    labels = np.array([0, 1, 2, 1, 0], np.uint8)
    data = load_data(save(x=ROWS, ids=np.ones((5, 7), np.int64), labels=labels), [X, IDS])
    assert data.count == 5
    assert list(data.columns) == ["x", "ids"]
    np.testing.assert_array_equal(data.columns["x"], ROWS)
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, labels)


def test_labels_are_optional(save):
    assert load_data(save(x=ROWS), [X]).labels is None


def test_an_input_called_labels_is_an_input(save):
    port = Port("labels", np.dtype("f4"), ("n", 3))
    data = load_data(save(labels=ROWS), [port])
    assert data.labels is None
    assert data.columns["labels"].shape == (5, 3)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("f8", "f4"), ("f2", "f4"), ("f4", "f2"), ("u1", "f4"), ("i8", "f4"), ("?", "f4"),
        ("i4", "i8"), ("i8", "i4"), ("u1", "i8"), ("?", "i8"), ("i8", "u1"), ("?", "?"),
        ("f4", ml_dtypes.bfloat16), ("i8", ml_dtypes.int4),
    ],
)  # fmt: skip
def test_safe_casts(save, given, taken):
    array = np.array([[1, 0, 1]], given)
    data = load_data(save(x=array), [Port("x", np.dtype(taken), ("n", 3))])
    assert data.columns["x"].dtype == np.dtype(taken)
    np.testing.assert_array_equal(data.columns["x"].astype(int), array.astype(int))


def test_strings(save):
    data = load_data(save(x=np.array(["a", "bc"])), [Port("x", np.dtype(object), ("n",))])
    assert data.columns["x"].tolist() == ["a", "bc"]


def test_any_rank_where_the_model_states_none(save):
    assert load_data(save(x=ROWS), [Port("x", np.dtype("f4"), None)]).count == 5


def test_a_scalar_goes_with_every_batch(save):
    threshold = Port("t", np.dtype("f4"), ())
    data = load_data(save(x=ROWS, t=np.float32(0.5)), [X, threshold])
    assert [float(piece.feeds["t"]) for piece in pieces(data, 2)] == [0.5] * 3


# -- what is refused ---------------------------------------------------------------------------------------


def test_no_file(tmp_path):
    assert message(tmp_path / "gone.npz", X) == "no such file"


NOT_NPZ = "not an .npz file; write one with numpy.savez(path, INPUT_NAME=array)"


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"PK\x03\x04 but no zip"])
def test_not_an_npz(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert message(path, X) == NOT_NPZ


def test_an_npy_is_not_an_npz(tmp_path):
    np.save(tmp_path / "data.npy", ROWS)
    assert message(tmp_path / "data.npy", X) == NOT_NPZ


def test_python_objects(save):
    expected = "array 'x' holds Python objects, which are not read; expected an array of numbers"
    assert message(save(x=np.array([{}, None], object)), X) == expected


def test_a_damaged_array(save):
    path = save(x=ROWS)
    content = bytearray(path.read_bytes())
    place = content.index(ROWS.tobytes())
    content[place] ^= 255
    path.write_bytes(bytes(content))
    assert message(path, X) == "array 'x' cannot be read: the file is damaged"


def test_a_missing_input(save):
    expected = f"no array for input 'x'; {TAKES_X}, the file holds 'X', 'labels'"
    assert message(save(X=ROWS, labels=np.zeros(5, int)), X) == expected
    assert message(save(), X) == f"no array for input 'x'; {TAKES_X}, the file holds nothing"


def test_an_unknown_array(save):
    expected = f"array 'y' is neither an input of the model nor 'labels'; {TAKES_X}, 'ids' int64 [n, seq]"
    assert message(save(x=ROWS, ids=np.ones((5, 7), int), y=ROWS), X, IDS) == expected


@pytest.mark.parametrize("array", [np.ones((5, 4)), np.ones(3), np.ones((5, 3, 1))])
def test_a_wrong_shape(save, array):
    expected = (
        f"array 'x' has shape {list(array.shape)}, expected 'x' float32 [n, 3] with the samples along the first axis"
    )
    assert message(save(x=array), X) == expected


def test_dims_without_a_name_are_shown(save):
    port = Port("x", np.dtype("f4"), (None, 3, "w"))
    assert "expected 'x' float32 [?, 3, w] with" in message(save(x=ROWS), port)


def test_no_samples(save):
    assert message(save(x=ROWS[:0]), X) == "array 'x' of shape [0, 3] holds no samples"


@pytest.mark.parametrize(
    ("given", "taken"), [("f4", "i8"), ("i8", "?"), ("f4", "?"), ("c8", "f4"), ("U1", "f4"), ("f4", "O")]
)
def test_casts_that_change_the_meaning(save, given, taken):
    array = np.zeros((2, 3), given)
    expected = (
        f"array 'x' has type {array.dtype}, the input takes {np.dtype(taken)}; "
        "convert the array as is right for the model"
    )
    assert message(save(x=array), Port("x", np.dtype(taken), ("n", 3))) == expected


@pytest.mark.parametrize(
    ("value", "given", "taken"),
    [
        (300, "i8", "u1"), (-1, "i8", "u1"), (2**40, "i8", "i4"), (2**64 - 1, "u8", "i8"), (-1, "i8", "u8"),
        (1e300, "f8", "f4"), (1e5, "f4", "f2"), (70000, "i4", "f2"), (9, "i8", ml_dtypes.int4),
    ],
)  # fmt: skip
def test_values_that_do_not_fit(save, value, given, taken):
    array = np.full((2, 3), value, given)
    expected = f"array 'x' of type {array.dtype} holds values that do not fit {np.dtype(taken)}, the type of the input"
    assert message(save(x=array), Port("x", np.dtype(taken), ("n", 3))) == expected


def test_nan_and_infinity(save):
    array = ROWS.copy()
    array[2, 1], array[3, 0] = np.nan, np.inf
    expected = "array 'x' holds 2 NaN or infinite values, the first in sample 2"
    assert message(save(x=array), X) == expected
    scalar = Port("t", np.dtype("f4"), ())
    assert message(save(x=ROWS, t=np.float32("nan")), X, scalar) == "array 't' holds 1 NaN or infinite values"


def test_different_numbers_of_samples(save):
    expected = "the arrays hold different numbers of samples (their first axis): 'x' 5, 'ids' 4"
    assert message(save(x=ROWS, ids=np.ones((4, 7), int)), X, IDS) == expected


@pytest.mark.parametrize(
    "labels", [np.zeros((5, 1), int), np.zeros(4, int), np.zeros(5), np.zeros(5, bool), np.eye(5, dtype=int)]
)
def test_wrong_labels(save, labels):
    expected = (
        f"array 'labels' has shape {list(labels.shape)} and type {labels.dtype}, "
        "expected [5] integers, one class index per sample"
    )
    assert message(save(x=ROWS, labels=labels), X) == expected


def test_an_input_that_is_no_tensor(save):
    port = Port("x", None, None)
    assert message(save(x=ROWS), port) == "input 'x' is no tensor; an .npz file cannot hold data for it"
    unknown = "no array for input 'x'; the model takes 'x' (no tensor) of any shape, the file holds 'z'"
    assert message(save(z=ROWS), port) == unknown


def test_only_scalars(save):
    expected = "the model has no input with an axis of samples"
    assert message(save(t=np.float32(1)), Port("t", np.dtype("f4"), ())) == expected


def test_inputs_of_different_static_batches(save):
    ports = Port("x", np.dtype("f4"), (2, 3)), Port("y", np.dtype("f4"), (1, 3))
    expected = (
        "the model cannot be fed sample by sample, its inputs take different numbers of samples at once: 'x' 2, 'y' 1"
    )
    assert message(save(x=ROWS, y=ROWS), *ports) == expected


# -- batches -------------------------------------------------------------------------------------------------


def test_pieces_are_in_order_and_complete(save):
    data = load_data(save(x=ROWS), [X])
    found = [piece.feeds["x"] for piece in pieces(data, 2)]
    assert [len(rows) for rows in found] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(found), ROWS)


def test_how_many_samples_a_model_takes_at_once():
    fixed, dynamic, scalar = Port("a", None, (4, 3)), Port("b", None, ("n", 3)), Port("c", None, ())
    assert batch_of([fixed]) == BatchSize(4)
    assert batch_of([dynamic, scalar]) == BatchSize()
    assert batch_of([dynamic, fixed]) == BatchSize(4)
    assert batch_of([Port("d", None, None)]) == BatchSize()
    assert batch_of([Port("e", None, (1, 3))]) == BatchSize(1)
    assert batch_of([Port("state", None, (2, 1, 8), batch=1), Port("a", None, (1, 3))]) == BatchSize(1)
    assert batch_of([Port("table", None, (9, 3), batch=None), dynamic]) == BatchSize()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_a_fixed_number_of_samples_takes_all_and_counts_each_once(save, size):
    data = load_data(save(x=ROWS), [Port("x", np.dtype("f4"), (size, 3))])
    assert data.batch == BatchSize(size)
    found = list(pieces(data, 16))
    assert all(piece.feeds["x"].shape == (size, 3) for piece in found)
    assert [piece.samples for piece in found] == [len(ROWS[i : i + size]) for i in range(0, 5, size)]
    outputs = [{"y": 2 * piece.feeds["x"], "loss": np.float32(0)} for piece in found]
    axes = [piece.axes_of(each) for piece, each in zip(found, outputs, strict=True)]
    assert [each["loss"] is None for each in axes] == [piece.samples < size for piece in found]
    counting = [piece.counting(*each) for piece, *each in zip(found, outputs, axes, strict=True)]
    np.testing.assert_array_equal(np.concatenate([each["y"] for each in counting]), 2 * ROWS)
    np.testing.assert_array_equal(np.concatenate([piece.own_feeds["x"] for piece in found]), ROWS)
    assert all(each["loss"] == 0 for each in counting)
    assert all(row in ROWS.tolist() for piece in found for row in piece.feeds["x"].tolist())  # copies, nothing invented


@pytest.mark.parametrize("dtype", ["f4", "f2", "i8", ml_dtypes.bfloat16, "U", object])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_copies_are_cut_from_the_axis_along_which_they_repeat(dtype, count):
    """Time may come first, and be as long as the run, or a multiple of it."""
    piece = load_data({"x": ROWS[:count]}, [Port("x", np.dtype("f4"), (4, 3))]).piece(range(count))
    rows = np.arange(4) % count
    place = np.arange(8)
    outputs = {
        "samples": 10 * rows[:, None] + place,
        "steps": place[:, None] + 10 * rows,
        "as many steps": place[:4, None] + 10 * rows,
        "channels first": place[:3, None, None] + place[:4, None] + 10 * rows,
        "patches": (10 * rows[:, None] + place[:2]).reshape(-1),
    }
    axes = piece.axes_of({name: array.astype(dtype) for name, array in outputs.items()})
    assert axes == {"samples": 0, "steps": 1, "as many steps": 1, "channels first": 2, "patches": 0}
    shapes = [array.shape for array in piece.counting(outputs, axes).values()]
    assert shapes == [(count, 8), (8, count), (4, count), (3, 4, count), (2 * count,)]


def test_what_does_not_lie_by_samples_has_no_axis():
    piece = load_data({"x": ROWS[:3]}, [Port("x", np.dtype("f4"), (4, 3))]).piece(range(3))
    outputs = {"loss": np.float32(3), "seven": np.zeros((7, 2)), "by place": np.arange(8.0), "none": np.zeros(0)}
    axes = piece.axes_of(outputs)
    assert axes == dict.fromkeys(outputs)
    counting = piece.counting(outputs, axes)
    assert all(counting[name] is array for name, array in outputs.items())


def test_copies_are_cut_from_a_state_where_it_has_its_samples():
    ports = [Port("x", np.dtype("f4"), (4, 3)), Port("h", np.dtype("f4"), (4, 4, 2), batch=1),
             Port("table", np.dtype("f4"), (4, 2), batch=None)]  # fmt: skip
    states = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    data = load_data({"x": ROWS[:3], "h": states, "table": np.ones((4, 2))}, ports)
    piece = data.piece(range(3))
    assert piece.feeds["h"].shape == (4, 4, 2)
    np.testing.assert_array_equal(piece.own_feeds["h"], states)
    assert piece.own_feeds["table"].shape == (4, 2)


STATE = Port("h", np.dtype("f4"), (2, 1, 4), batch=1)


@pytest.mark.parametrize("stack", ["along the batch", "samples first", "feeds"])
def test_samples_of_a_state_lie_along_its_batch(stack):
    states = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    stacked = {"along the batch": states, "samples first": np.moveaxis(states, 1, 0)}.get(stack)
    if stacked is None:
        stacked = np.stack([states[:, i : i + 1] for i in range(3)])
    data = load_data({"x": ROWS[:3], "h": stacked}, [Port("x", np.dtype("f4"), (1, 3)), STATE])
    assert data.count == 3
    for i, piece in enumerate(pieces(data, 4)):
        np.testing.assert_array_equal(piece.feeds["h"], states[:, i : i + 1])
        np.testing.assert_array_equal(piece.feeds["x"], ROWS[i : i + 1])


def as_source(form, folder, arrays):
    """Return a source that holds arrays by name: a dict, a file, one feed, or a folder of one file."""
    if form in ("dict", "feed"):
        return dict(arrays) if form == "dict" else [dict(arrays)]
    np.savez(folder / "a.npz", **arrays)
    return folder if form == "folder" else folder / "a.npz"


FORMS = pytest.mark.parametrize("form", ["dict", "file", "feed", "folder"])
STATES = np.arange(40, dtype=np.float32).reshape(2, 5, 4)
PLAIN = np.arange(30, dtype=np.float32).reshape(5, 6)
LAYOUTS = {  # inputs, arrays, samples as they lie in the columns
    "a state along its batch": (("n", 6), (2, "n", 4), 1, PLAIN, STATES),
    "a state with samples first": (("n", 6), (2, "n", 4), 1, PLAIN, np.moveaxis(STATES, 1, 0)),
    "stacked feeds of one sample": ((1, 6), (2, 1, 4), 1, PLAIN[:, None], np.moveaxis(STATES, 1, 0)[:, :, None]),
    "stacked feeds and plain samples": ((1, 6), (2, 1, 4), 1, PLAIN[:, None], STATES),
    "stacked feeds of five samples": ((5, 6), (2, 5, 4), 1, PLAIN[None], STATES[None]),
    "a shared table": (("n", 6), (2, 5, 4), None, PLAIN, STATES),
}


@FORMS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_every_form(tmp_path, form, layout):
    shape, other, batch, x, h = LAYOUTS[layout]
    ports = [Port("x", np.dtype("f4"), shape), Port("h", np.dtype("f4"), other, batch=batch)]
    source = as_source(form, tmp_path, {"x": x, "h": h, "labels": np.arange(5)})
    data = load_data(source, ports)
    assert (data.count, data.labels.tolist()) == (5, [0, 1, 2, 3, 4])
    feeds = data.take(range(5))
    np.testing.assert_array_equal(feeds["x"], PLAIN)
    np.testing.assert_array_equal(feeds["h"], STATES)


@FORMS
@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"x": PLAIN, "h": STATES, "labels": np.arange(2)},
         "array 'labels' has shape [2] and type int64, expected [5] integers, one class index per sample"),
        ({"x": PLAIN, "h": STATES[:, :4], "labels": np.arange(5)},
         "the arrays hold different numbers of samples (their first axis): 'x' 5, 'h' 4"),
        ({"x": PLAIN, "h": STATES[:, :0]}, "array 'h' of shape [2, 0, 4] holds no samples"),
        ({"x": PLAIN, "h": np.where(STATES == 12, np.nan, STATES)},
         "array 'h' holds 1 NaN or infinite values, the first in sample 3"),
    ],
)  # fmt: skip
def test_samples_of_a_state_are_counted_along_its_batch(tmp_path, form, arrays, expected):
    ports = [Port("x", np.dtype("f4"), ("n", 6)), Port("h", np.dtype("f4"), (2, "n", 4), batch=1)]
    with pytest.raises(DataError) as caught:
        load_data(as_source(form, tmp_path, arrays), ports)
    assert str(caught.value).endswith(f": {expected}")


@FORMS
def test_a_shared_table_may_be_empty(tmp_path, form):
    ports = [X, Port("table", np.dtype("f4"), (0, 4), batch=None)]
    data = load_data(as_source(form, tmp_path, {"x": ROWS, "table": np.zeros((0, 4))}), ports)
    assert (data.count, data.take([0])["table"].shape) == (5, (0, 4))


@FORMS
def test_too_many_samples_of_a_state(tmp_path, monkeypatch, form):
    monkeypatch.setattr("onnxprune.data.fitting.MOST_SAMPLES", 4)
    state = Port("h", np.dtype("f4"), (9, "n", 4), batch=1)
    assert load_data(as_source(form, tmp_path, {"h": np.zeros((9, 4, 4))}), [state]).count == 4
    with pytest.raises(DataError, match="5 samples are more than 4, the most that are taken; give a part"):
        load_data(as_source(form, tmp_path, {"h": np.zeros((9, 5, 4))}), [state])


def test_feeds_as_a_session_takes_them_hold_their_states():
    feeds = [{"x": ROWS[i : i + 1], "h": np.full((2, 1, 4), i, np.float32)} for i in range(3)]
    data = load_data(feeds, [Port("x", np.dtype("f4"), ("n", 3)), Port("h", np.dtype("f4"), (2, "n", 4), batch=1)])
    (piece,) = pieces(data, 4)
    assert piece.feeds["h"].shape == (2, 3, 4)
    assert piece.feeds["h"][0, :, 0].tolist() == [0, 1, 2]


def test_what_has_no_axis_of_samples_goes_with_every_batch():
    ports = [X, Port("table", np.dtype("f4"), (9, 2), batch=None)]
    table = np.arange(18, dtype=np.float32).reshape(9, 2)
    for source in ({"x": ROWS, "table": table}, [{"x": ROWS[:2], "table": table}, {"x": ROWS[2:], "table": table}]):
        data = load_data(source, ports)
        assert data.count == 5
        assert all(np.array_equal(piece.feeds["table"], table) for piece in pieces(data, 2))
    with pytest.raises(DataError) as caught:
        load_data([{"x": ROWS, "table": table}, {"x": ROWS, "table": table + 1}], ports)
    expected = "input 'table' of shape [9, 2] has no axis of samples: all share it, but it differs from those before"
    assert str(caught.value) == f"data: feed 2: {expected}"


# -- shapes that are given ---------------------------------------------------------------------------------


def test_a_shape_fixes_dims_of_the_same_name_too():
    ports = [Port("x", np.dtype("f4"), ("n", 3, None)), Port("m", np.dtype("f4"), ("n", "k"))]
    assert [port.shape for port in with_shapes(ports, {"x": (2, 3, 8)})] == [(2, 3, 8), (2, "k")]
    assert with_shapes(ports, {}) == tuple(ports)


def test_an_input_of_unknown_rank_gets_one():
    assert with_shapes([Port("x", np.dtype("f4"), None)], {"x": (2, 3)})[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3)}, "input 'z' is not one of the model, which takes 'x' float32 [n, 3]"),
        ({"x": (1,)}, "input 'x': shape [1] does not fit, the model takes 'x' float32 [n, 3]"),
        ({"x": (1, 4)}, "input 'x': shape [1, 4] does not fit, the model takes 'x' float32 [n, 3]"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    with pytest.raises(OptionError) as error:
        with_shapes([Port("x", np.dtype("f4"), ("n", 3))], shapes)
    assert str(error.value) == message


def test_two_inputs_cannot_give_one_dim_two_sizes():
    ports = [Port("x", np.dtype("f4"), ("n", 3)), Port("m", np.dtype("f4"), ("n",))]
    assert [port.shape for port in with_shapes(ports, {"x": (2, 3), "m": (2,)})] == [(2, 3), (2,)]
    with pytest.raises(OptionError) as error:
        with_shapes(ports, {"x": (2, 3), "m": (4,)})
    assert str(error.value) == "input 'm': shape [4] gives dim 'n' the size 4, another input 2"


# -- parts of the data -------------------------------------------------------------------------------------


def numbered(count, at_once=None):
    """Samples whose only number, and label, is their position."""
    return Data({"x": np.arange(count)[:, None], "t": np.float32(0.5)}, np.arange(count), count, BatchSize(at_once))


def positions(data):
    return [int(row) for piece in pieces(data, 3) for row in piece.own_feeds["x"][:, 0]]


def test_take():
    feeds = numbered(9).take([4, 2])
    assert feeds["x"].tolist() == [[4], [2]]
    assert (feeds["t"].shape, float(feeds["t"])) == ((), 0.5)
    assert numbered(9).take([])["x"].shape == (0, 1)
    with pytest.raises(IndexError, match=r"^samples are numbered 0 to 8, asked for 3 to 9$"):
        numbered(9).take([3, 9])


def test_a_subset_of_a_subset_is_a_view():
    data = numbered(9).subset([8, 6, 4]).subset([2, 0])
    assert (data.count, data.labels.tolist(), data.take([0, 1])["x"].tolist()) == (2, [4, 8], [[4], [8]])
    assert data.columns["x"].base is not None or len(data.columns["x"]) == 9


def test_models_are_compared_on_so_many_at_most(monkeypatch):
    data = load_data({"x": np.repeat(ROWS, 4, 0)}, [X])
    assert module.evaluated(data, 0) is data
    monkeypatch.setattr(module, "MOST_EVALUATED", 6)
    assert module.evaluated(data, 0).count == 6


@given(st.integers(1, 40), st.integers(1, 4), st.floats(0, 1), st.integers(0, 9))
def test_split_is_disjoint_complete_ordered_and_deterministic(parts, at_once, share, seed):
    data = numbered(parts * at_once, at_once)
    one, other = split(data, share, seed)
    first, second = positions(one), positions(other)
    assert sorted(first + second) == list(range(data.count))
    assert (first, second) == (sorted(first), sorted(second))
    assert [positions(part) for part in split(data, share, seed)] == [first, second]
    assert one.labels.tolist() == first
    for found in (first, second) if parts > 1 else ():  # whole batches
        assert [p // at_once for p in found[::at_once]] == [p // at_once for p in found[at_once - 1 :: at_once]]
    if data.count > 1 and 0 < share < 1:
        assert first
        assert second
    assert abs(one.count - share * data.count) <= at_once


@given(st.integers(2, 40), st.integers(1, 12), st.floats(0.01, 0.99), st.integers(0, 9))
def test_both_parts_get_samples_where_there_are_two(count, at_once, share, seed):
    """Also where fewer samples are there than the model takes at once."""
    one, other = split(numbered(count, at_once), share, seed)
    assert min(one.count, other.count) >= 1
    assert sorted(positions(one) + positions(other)) == list(range(count))
    if count > at_once:
        assert one.count % at_once == 0


def test_seeds_draw_other_samples():
    assert positions(split(numbered(100), 0.5, 0)[0]) != positions(split(numbered(100), 0.5, 1)[0])


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 60), st.integers(0, 9))
def test_limit(parts, at_once, samples, seed):
    data = numbered(parts * at_once, at_once)
    found = positions(limit(data, samples, seed))
    assert found == sorted(set(found)) == positions(limit(data, samples, seed))
    assert len(found) == min(data.count, max(samples // at_once, 1) * at_once)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5))
def test_batches_hold_samples_of_one_shape(lengths, size):
    samples = [{"ids": np.full((1, length), i)} for i, length in enumerate(lengths)]
    data = load_data(samples, [IDS])
    found = [piece.feeds for piece in pieces(data, size)]
    assert [tuple(row) for feeds in found for row in feeds["ids"]] == [(i,) * n for i, n in enumerate(lengths)]
    assert all(1 <= len(feeds["ids"]) <= size for feeds in found)
    runs = [len(list(run)) for _, run in itertools.groupby(lengths)]
    assert len(found) == sum(-(-run // size) for run in runs)


def test_samples_of_different_shapes_do_not_stack():
    data = load_data([np.ones((1, 4), int), np.ones((1, 6), int)], [IDS])
    with pytest.raises(DataError) as caught:
        data.take([0, 1])
    expected = "samples of input 'ids' have different shapes, [4] and [6]: they cannot go into one batch"
    assert str(caught.value) == expected


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "i8", "?", "f2", ml_dtypes.bfloat16, ml_dtypes.int4])
@pytest.mark.parametrize("widths", [(3, 3, 3, 3), (3, 2, 0, 3), (0, 0)])
def test_what_does_not_fit_goes_to_a_file(tmp_path, monkeypatch, dtype, widths):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    parts = [{"x": np.arange(2 * width).reshape(2, width).astype(dtype)} for width in widths]
    kept, spilled = (Data(gathered(iter(parts), limit), None, 2 * len(parts)) for limit in (10**6, 1))
    for i in range(kept.count):
        one, other = kept.take([i])["x"], spilled.take([i])["x"]
        assert (one.dtype, one.shape) == (other.dtype, other.shape) == (np.dtype(dtype), (1, widths[i // 2]))
        np.testing.assert_array_equal(one.astype(int), other.astype(int))
    del spilled, other
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_text_stays_in_memory():
    column = gathered(iter([{"x": np.array(["a", "bc"], object)}] * 3), 1)["x"]
    assert column.tolist() == ["a", "bc"] * 3


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr("onnxprune.data.columns.LIMIT_BYTES", 50)
    monkeypatch.setattr("onnxprune.data.archive._PART_BYTES", 40)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_large_file_is_read_in_parts(tmp_path, small_limit, write):
    write(tmp_path / "d.npz", x=ROWS.astype("f8"), t=np.float32(0.5), labels=np.arange(5))
    data = load_data(tmp_path / "d.npz", [X, Port("t", np.dtype("f4"), ())])
    assert (data.count, data.labels.tolist()) == (5, [0, 1, 2, 3, 4])
    feeds = data.take(range(5))
    np.testing.assert_array_equal(feeds["x"], ROWS)
    assert (feeds["x"].dtype, feeds["t"].tolist()) == (np.float32, 0.5)


def test_what_is_wrong_with_a_large_file(save, small_limit):
    assert message(save(x=ROWS[:, :2]), X).startswith("array 'x' has shape [5, 2], expected 'x' float32 [n, 3]")
    assert message(save(y=ROWS), X) == f"no array for input 'x'; {TAKES_X}, the file holds 'y'"
    path = save(x=np.where(ROWS == 10, np.nan, ROWS))
    with pytest.raises(DataError) as caught:
        load_data(path, [X])
    expected = "counted from sample 3: array 'x' holds 1 NaN or infinite values, the first in sample 0"
    assert str(caught.value) == f"{path}, {expected}"
    np.testing.assert_array_equal(load_data(save(x=np.asfortranarray(ROWS)), [X]).take([4])["x"], ROWS[4:])


def test_a_large_file_that_is_damaged(save, small_limit):
    path = save(x=ROWS)
    content = bytearray(path.read_bytes())
    content[content.index(ROWS.tobytes())] ^= 255
    path.write_bytes(bytes(content))
    assert message(path, X) == "array 'x' cannot be read: the file is damaged"


# -- iterables ---------------------------------------------------------------------------------------------


class Tensor:
    """Like one of torch, that is part of a computation on a device."""

    def __init__(self, array, state="grad"):
        self.array, self.state = array, state

    def detach(self):
        return Tensor(self.array, "device")

    def cpu(self):
        return Tensor(self.array, "cpu")

    def numpy(self):
        assert self.state == "cpu"
        return self.array


class Loader:
    """Like a DataLoader: it knows its length, and yields lists."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter([[Tensor(array) for array in batch] for batch in self.batches])


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        Tensor(ROWS),
        {"x": ROWS},
        {"x": Tensor(ROWS)},
        [{"x": ROWS[:3]}, {"x": ROWS[3:]}],
        [ROWS[:1], *ROWS[1:]],  # one sample may lack its axis
        [(ROWS[:2],), (ROWS[2:],)],
        (ROWS,),
        iter([ROWS[:4], ROWS[4]]),
        lambda: iter([ROWS]),
        Loader([ROWS[:3]], [ROWS[3:]]),
    ],
)
def test_sources_in_memory(source):
    data = load_data(source, [X])
    assert (data.count, data.labels) == (5, None)
    np.testing.assert_array_equal(data.take(range(5))["x"], ROWS)


@pytest.mark.parametrize(
    "source",
    [
        {"x": ROWS, "labels": [0, 1, 2, 3, 4]},
        [{"x": row, "labels": i} for i, row in enumerate(ROWS)],
        Loader([ROWS[:3], np.arange(3)], [ROWS[3:], np.arange(3, 5)]),
        (ROWS, np.arange(5)),
    ],
)
def test_labels_in_memory(source):
    data = load_data(source, [X])
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.labels.dtype == np.int64


def test_data_is_data():
    data = numbered(3)
    assert load_data(data, [X]) is data


def test_a_generator_is_read_as_far_as_it_must():
    seen = []

    def forever():
        for i in itertools.count():
            seen.append(i)
            yield ROWS

    assert load_data(forever(), [X], max_samples=7).count == 7
    assert seen == [0, 1]
    assert load_data(forever(), [Port("x", np.dtype("f4"), (4, 3))], max_samples=7).count == 4


def test_a_generator_that_never_ends(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLES", 12)
    assert load_data(itertools.repeat(ROWS), [X]).count == 12
    assert load_data([ROWS] * 3, [X]).count == 15


class Stopped(BaseException):
    """Like what ends a task or a test: no Exception."""


class Stream:
    """Feeds without end, and what they say of their length."""

    def __init__(self, length):
        self.length = length

    def __iter__(self):
        return itertools.repeat(ROWS[:1])

    def __len__(self):
        if isinstance(self.length, int):
            return self.length
        raise self.length


@pytest.mark.parametrize("length", [TypeError("a stream has no length"), 3, 2**70, -1, SystemExit(), Stopped()])
def test_a_length_that_is_wrong(monkeypatch, length):
    monkeypatch.setattr(module, "MAX_SAMPLES", 12)
    monkeypatch.setattr("onnxprune.data.feeds.MOST_SAMPLES", 30)
    assert load_data(Stream(length), [X]).count == 12


@pytest.mark.parametrize("length", [TypeError("a stream has no length"), 3, 2**70])
def test_so_many_samples_as_are_wanted(monkeypatch, length):
    """Also where that is more than is taken of what does not know its length."""
    monkeypatch.setattr(module, "MAX_SAMPLES", 12)
    for wanted in (7, 20):
        assert load_data(Stream(length), [X], max_samples=wanted).count == wanted


@pytest.mark.parametrize("wanted", [10**9, 2**70])
def test_more_samples_than_are_taken_are_not_read(monkeypatch, wanted):
    for place in ("feeds", "fitting", "samples"):
        monkeypatch.setattr(f"onnxprune.data.{place}.MOST_SAMPLES", 30)
    with pytest.raises(DataError, match=r"^data: 31 samples are more than 30, the most that are taken; give a part$"):
        load_data(Stream(3), [X], max_samples=wanted)


def test_a_length_that_is_large_and_wrong(monkeypatch):
    for place in ("feeds", "fitting"):
        monkeypatch.setattr(f"onnxprune.data.{place}.MOST_SAMPLES", 30)
    with pytest.raises(DataError, match=r"^data: 31 samples are more than 30, the most that are taken; give a part$"):
        load_data(Stream(10**9), [X])


class Silent(Exception):
    def __str__(self):
        raise ValueError


RAISED = {
    ValueError("x" * 10**7): f"ValueError: {'x' * 147} ... {'x' * 148}",
    ValueError("two\nlines"): "ValueError: two lines",
    Silent(): "Silent",
    MemoryError(): "MemoryError",
    RecursionError("deep"): "RecursionError: deep",
    GeneratorExit(): "GeneratorExit",
    SystemExit(3): "SystemExit: 3",
    AssertionError(): "AssertionError",
    asyncio.CancelledError("late"): "CancelledError: late",
    Stopped("here"): "Stopped: here",
}


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("when", ["called", "iterated", "read", "mapped", "array"])
def test_code_of_others_may_raise_anything(error, when):
    def feeds():
        if when == "read":
            raise error
        yield Odd()

    def fails(*_, **__):
        raise error

    name = {"iterated": "__iter__", "mapped": "items", "array": "__array__"}.get(when, "unused")
    Odd = type("Odd", (dict if when == "mapped" else object,), {name: fails})  # noqa: N806

    source = {"called": fails, "iterated": Odd(), "mapped": [Odd()], "array": [Odd()], "read": feeds}[when]
    with pytest.raises(DataError) as caught:
        load_data(source, [X])
    assert RAISED[error] in str(caught.value)
    assert str(caught.value).startswith("data: ")


def test_an_interrupt_is_no_error_of_the_data():
    def feeds():
        yield ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(feeds, [X])


@pytest.mark.parametrize("kind", [RuntimeError, Stopped])
def test_what_raises_when_it_is_looked_at(kind):
    class Proxy:
        def __getattr__(self, name):
            raise kind(name)

    with pytest.raises(DataError, match=f"array 'x' cannot be made an array from Proxy: {kind.__name__}: "):
        load_data([Proxy()], [X])
    with pytest.raises(DataError, match=r"^data must be a path, .*, got Proxy$"):
        load_data(Proxy(), [X])


def test_scalars_of_feeds():
    ports = [X, Port("t", np.dtype("f4"), ())]
    data = load_data([{"x": ROWS, "t": 0.5}, {"x": ROWS, "t": 0.5}], ports)
    assert (data.count, float(data.take([0])["t"])) == (10, 0.5)
    with pytest.raises(DataError) as caught:
        load_data([{"x": ROWS, "t": 0.5}, {"x": ROWS, "t": 0.25}], ports)
    assert str(caught.value) == (
        "data: feed 2: input 't' is a scalar that all samples share, but 0.25 here and 0.5 before"
    )


BAD_FEEDS = [
    ([], "there are no feeds; expected at least one, a dict by input name, a tuple in the order of the inputs, "
         "or an array"),
    ([{"y": ROWS}], f"feed 1: no array for input 'x'; {TAKES_X}, the feed holds 'y'"),
    ([ROWS, {"x": ROWS, "z": ROWS}],
     f"feed 2: array 'z' is neither an input of the model nor 'labels'; {TAKES_X}"),
    ([np.ones((2, 4))], "feed 1: array 'x' has shape [2, 4], expected 'x' float32 [n, 3] with the samples along "
                        "the first axis"),
    ([np.full((2, 3), np.nan)], "feed 1: array 'x' holds 6 NaN or infinite values, the first in sample 0"),
    ([np.ones((2, 3), complex)],
     "feed 1: array 'x' has type complex128, the input takes float32; convert the array as is right for the model"),
    ([[ROWS, [0], [1]]], "feed 1 holds 3 arrays; the model takes 1 ('x'), and 'labels' may follow"),
    ([None], "feed 1: array 'x' is of type NoneType; expected an array of numbers, or text"),
    ([[[[1, 2], [3]]]], "feed 1: array 'x' cannot be made an array from list: "),
    ([ROWS, {"x": ROWS, "labels": np.arange(5)}],
     "feed 2 has 'labels', unlike those before it; give them with all or none"),
    ([{"x": ROWS, "labels": np.arange(5)}, ROWS],
     "feed 2 has no 'labels', unlike those before it; give them with all or none"),
    ([{"x": ROWS, "labels": np.arange(4)}],
     "feed 1: array 'labels' has shape [4] and type int64, expected [5] integers, one class index per sample"),
]  # fmt: skip


@pytest.mark.parametrize(("feeds", "expected"), BAD_FEEDS, ids=[text[:50] for _, text in BAD_FEEDS])
def test_feeds_that_do_not_fit(feeds, expected):
    with pytest.raises(DataError) as caught:
        load_data(iter(feeds), [X])
    assert str(caught.value).startswith(f"data: {expected}")


def test_feeds_of_different_numbers_of_samples():
    with pytest.raises(DataError) as caught:
        load_data([{"x": ROWS, "ids": np.ones((4, 2), int)}], [X, IDS])
    expected = "the arrays hold different numbers of samples (their first axis): 'x' 5, 'ids' 4"
    assert str(caught.value) == f"data: feed 1: {expected}"


def test_nothing_that_can_be_data():
    with pytest.raises(DataError) as caught:
        load_data(5, [X])
    assert str(caught.value) == (
        "data must be a path, the name module:function, arrays, or an iterable of feeds, got int"
    )


def test_samples_taken_at_once_have_one_shape():
    port = Port("ids", np.dtype("i8"), (2, "seq"))
    data = load_data([np.ones((1, length), int) for length in (3, 3, 4, 5)], [port])
    found = [(piece.feeds["ids"].shape, piece.samples) for piece in pieces(data, 8)]
    assert found == [((2, 3), 2), ((2, 4), 1), ((2, 5), 1)]


# -- functions ---------------------------------------------------------------------------------------------

FUNCTIONS = """
import numpy as np

def good():
    import {name}_helper
    yield from {name}_helper.FEEDS

def whole():
    return {{"x": np.ones((4, 3)), "labels": np.arange(4)}}

def nothing():
    return None

def empty():
    return []

def breaks():
    yield np.ones((2, 3))
    raise ValueError("no such photo")

def leaves():
    raise SystemExit

def asks(path):
    return []

number = 3
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    name = f"feeds_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS.format(name=name))
    (tmp_path / f"{name}_helper.py").write_text("import numpy as np\nFEEDS = [np.ones((1, 3)), np.ones((2, 3))]\n")
    (tmp_path / f"{name}_bad.py").write_text("1 / 0\n")
    (tmp_path / f"{name}_lacks.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield name
    assert sys.path == path
    for found in [found for found in sys.modules if found.startswith(name)]:
        del sys.modules[found]


def test_functions(functions):
    assert load_data(f"{functions}:good", [X]).count == 3
    data = load_data(f"{functions}:whole", [X])
    assert (data.count, data.labels.tolist()) == (4, [0, 1, 2, 3])
    assert [path.name for path in files_of(f"{functions}:good")] == [f"{functions}.py"]


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        (":gone", ": module '{0}' has no function 'gone'"),
        (":number", " is of type int; expected a function without arguments that yields feeds"),
        (":nothing", ": expected feeds, each a dict by input name, a tuple in the order of the inputs, or an array, "
                     "got NoneType"),
        (":empty", ": there are no feeds; expected at least one, a dict by input name"),
        (":breaks", ": reading feed 2 raised ValueError: no such photo ({0}.py, line 19)"),
        (":leaves", ": the function raised SystemExit ({0}.py, line 22)"),
        (":asks", ": the function raised TypeError: asks() missing 1 required positional argument: 'path' (feeds.py"),
        ("_gone:x", ": there is no module '{0}_gone' in the current folder or on sys.path"),
        ("_bad:x", ": importing its module raised ZeroDivisionError: division by zero ({0}_bad.py, line 1)"),
        ("_lacks:x", ": importing its module raised ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_used(functions, suffix, expected):
    with pytest.raises(DataError) as caught:
        load_data(functions + suffix, [X])
    assert str(caught.value).startswith(functions + suffix + expected.format(functions))


# -- folders -----------------------------------------------------------------------------------------------


def test_a_folder_of_npz(tmp_path):
    np.savez(tmp_path / "b.npz", x=ROWS[2:], labels=np.arange(2, 5))
    np.savez(tmp_path / "a.npz", x=ROWS[:2], labels=np.arange(2))
    (tmp_path / "notes.md").write_text("ignored")
    data = load_data(tmp_path, [X])
    np.testing.assert_array_equal(data.take(range(5))["x"], ROWS)
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert [path.name for path in files_of(tmp_path)] == ["a.npz", "b.npz"]


LABEL_FILES = {
    "labels.npy": lambda path: np.save(path, np.array([7, 8, 9], np.uint8)),
    "labels.txt": lambda path: path.write_text("7\n8\n9\n"),
    "labels.csv": lambda path: path.write_text("file,label\nsub/c.npy,9\na.npy,7\nb.npy,8\n"),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_folder_of_npy_with_labels(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for i, file in enumerate(("a", "b", "sub/c")):
        np.save(tmp_path / f"{file}.npy", ROWS[i] if i else ROWS[:1])
    LABEL_FILES[name](tmp_path / name)
    data = load_data(tmp_path, [X])
    assert data.labels.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(data.take([0, 1, 2])["x"], ROWS[:3])


KINDS = ".npz, .npy or images (png, jpg, jpeg, bmp, webp)"


@pytest.mark.parametrize(
    ("files", "inputs", "expected"),
    [
        ({}, [X], f"{{0}}: the folder holds no samples: {KINDS}"),
        ({".hidden.npy": ROWS, "labels.npy": ROWS}, [X], f"{{0}}: the folder holds no samples: {KINDS}"),
        ({"a.npy": ROWS, "b.png": "x"}, [X],
         f"{{0}}: the folder holds .npy files (a.npy) and images (b.png); expected one kind: {KINDS}"),
        ({"a.npy": ROWS}, [X, IDS], "{0}/a.npy: an .npy file holds one array, the model takes 'x', 'ids'; "
                                    "give .npz files"),
        ({"a.npy": "text"}, [X], "{0}/a.npy: not an .npy file of numbers; write one with numpy.save(path, array)"),
        ({"a.npz": "text"}, [X], "{0}/a.npz: not an .npz file; write one with "),
        ({"a.npy": ROWS, "b.npy": ROWS[:, :2]}, [X], "{0}/b.npy: array 'x' has shape [5, 2], expected"),
        ({"a.npy": ROWS, "labels.txt": "1\n2\n"}, [X], "{0}/labels.txt: has 2 class indices, expected 5, one per "
                                                       "sample sorted by file"),
        ({"a.npy": ROWS, "labels.txt": "cat"}, [X], "{0}/labels.txt: 'cat' is no class index; "
                                                    "expected one integer a line"),
        ({"a.npy": ROWS, "labels.csv": "b.npy,3"}, [X], "{0}/labels.csv: no line for a.npy; expected FILE,INDEX for "),
        ({"a.npy": ROWS, "labels.csv": "3", "labels.txt": "3"}, [X], "{0}: expected labels in one file, found "
                                                                     "labels.csv, labels.txt"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, files, inputs, expected):
    for name, content in files.items():
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        else:
            np.save(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        load_data(tmp_path, inputs)
    assert str(caught.value).startswith(expected.format(tmp_path))


def test_labels_twice(tmp_path):
    np.savez(tmp_path / "a.npz", x=ROWS, labels=np.arange(5))
    np.save(tmp_path / "labels.npy", np.arange(5))
    with pytest.raises(DataError, match=r"labels are in labels.npy and in the .npz files; expected one of both$"):
        load_data(tmp_path, [X])


def test_no_file_of_the_data_is_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("calibration", "evaluation"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            np.save(tmp_path / folder / f"{name}.npy", ROWS)
    options = make_options(eval_data="evaluation")
    for folder in ("calibration", "evaluation"):
        target = tmp_path / folder / "b.npy"
        with pytest.raises(InputError, match=r"b\.npy is part of the data; give the output another name$"):
            prune.prune_file(tmp_path / "m.onnx", target, options, "calibration", force=True, progress=lambda *_: None)


def test_columns_are_read_by_sample():
    column = Column([(2,), (2,)], np.dtype("f4"), lambda row: np.full(2, row, np.float32))
    assert Data({"x": column}, None, 2).take([1, 0])["x"].tolist() == [[1, 1], [0, 0]]
