"""Data files: what is accepted, and what each refusal says."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from onnxprune.data import batch_size, batches, load_data, with_shapes
from onnxprune.errors import DataError, OptionError
from onnxprune.model import Port

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
    assert [float(feeds["t"]) for feeds in batches(data, 2)] == [0.5] * 3


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


def test_a_static_batch_takes_whole_batches(save):
    fixed = Port("x", np.dtype("f4"), (2, 3))
    expected = "5 samples, but input 'x' takes exactly 2 at once; give a multiple of 2"
    assert message(save(x=ROWS), fixed) == expected
    assert load_data(save(x=ROWS[:4]), [fixed]).count == 4


def test_inputs_of_different_static_batches(save):
    ports = Port("x", np.dtype("f4"), (2, 3)), Port("y", np.dtype("f4"), (1, 3))
    expected = (
        "the model cannot be fed sample by sample, its inputs take different numbers of samples at once: 'x' 2, 'y' 1"
    )
    assert message(save(x=ROWS, y=ROWS), *ports) == expected


# -- batches -------------------------------------------------------------------------------------------------


def test_batches_are_in_order_and_complete(save):
    data = load_data(save(x=ROWS), [X])
    found = [feeds["x"] for feeds in batches(data, 2)]
    assert [len(rows) for rows in found] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(found), ROWS)


def test_batch_size():
    fixed, dynamic, scalar = Port("a", None, (4, 3)), Port("b", None, ("n", 3)), Port("c", None, ())
    assert batch_size([fixed], 8) == 4
    assert batch_size([dynamic, scalar], 8) == 8
    assert batch_size([dynamic, fixed], 8) == 4
    assert batch_size([Port("d", None, None)], 8) == 8


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
