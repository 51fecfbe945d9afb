"""Feeds read one after the other: from an iterable, or from a function of the user, by its name.

A feed is a dict by input name, a tuple in the order of the inputs, or a single array; it holds one sample or several.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxprune.data.batching import batch_of, is_shared
from onnxprune.data.columns import Samples, gathered, length
from onnxprune.data.fitting import (
    LABELS,
    MOST_SAMPLES,
    check_names,
    checked_labels,
    counted,
    fitted_inputs,
)
from onnxprune.errors import DataError, code_of_others, said, said_where
from onnxprune.graph.ports import Port
from onnxprune.graph.tensors import Array

MAX_SAMPLES = 10_000  # taken of an iterable without a length: it may never end
Table: TypeAlias = tuple[dict[str, Samples], "Array | None", int]  # columns by input, labels, number of samples

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_END = object()
_EXPECTED = "a dict by input name, a tuple in the order of the inputs, or an array"


# -- functions ---------------------------------------------------------------------------------------------


def is_function(source: object) -> bool:
    """Whether a source is the name of a function, and not of an existing file.

    >>> is_function("feeds:samples"), is_function("data/feeds.npz")
    (True, False)
    """
    return isinstance(source, str) and bool(_FUNCTION.fullmatch(source)) and not Path(source).exists()


def file_of(source: str) -> Path:
    """Return where the module of a function would lie in the current folder.

    >>> file_of("my.feeds:samples").as_posix()
    'my/feeds.py'
    """
    return Path(*source.split(":", maxsplit=1)[0].split(".")).with_suffix(".py")


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Let modules of the current folder be imported within the block."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def called(source: str) -> Any:
    """Return what the function ``module:function`` returns.

    Raises:
        DataError: when it cannot be imported, or raises.
    """
    return made_by(source, function_of(source, "a function without arguments that yields feeds"))


def function_of(source: str, expected: str) -> Callable[..., Any]:
    """Return the function ``module:function``; `expected` says what it should be.

    Raises:
        DataError: when it cannot be imported, or is no function.
    """
    module_name, _, name = source.partition(":")
    with code_of_others(lambda error: _not_imported(source, module_name, error)):
        module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if function is None:
        raise DataError(f"{source}: module {module_name!r} has no function {name!r}")
    if not callable(function):
        kind = type(function).__name__
        raise DataError(f"{source} is of type {kind}; expected {expected}")
    return function  # type: ignore[no-any-return]


def made_by(source: str, function: Callable[[], Any]) -> Any:
    """Return what a function of the user returns.

    Raises:
        DataError: when it raises.
    """
    with _refusing(source, "the function"):
        return function()


def _refusing(source: str, what: str) -> contextlib.AbstractContextManager[None]:
    """Turn an exception in the user's code into an error, with the line that raised it."""
    return code_of_others(lambda error: DataError(f"{source}: {what} raised {said_where(error)}"))


def _not_imported(source: str, module_name: str, error: BaseException) -> DataError:
    """Return the error for a module that is not there, or that raises while it is imported."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
        return DataError(f"{source}: there is no module {module_name!r} in the current folder or on sys.path")
    return DataError(f"{source}: importing its module raised {said_where(error)}")


def each(source: str, feeds: Any) -> Iterator[tuple[str, Any]]:
    """Yield feeds, each behind the words for its source.

    Raises:
        DataError: when `feeds` cannot be iterated over, or raises while it is.
    """
    if isinstance(feeds, (tuple, Mapping)) or is_array(feeds):
        feeds = [feeds]  # a single one
    if not (hasattr(type(feeds), "__iter__") or hasattr(type(feeds), "__getitem__")):
        raise DataError(f"{source}: expected feeds, each {_EXPECTED}, got {type(feeds).__name__}")
    with _refusing(source, "reading its feeds"):
        iterator = iter(feeds)
    for number in itertools.count(1):
        with _refusing(source, f"reading feed {number}"):
            feed = next(iterator, _END)
        if feed is _END:
            return
        yield f"{source}: feed {number}", feed


def length_of(feeds: Any) -> int | None:
    """Return how many feeds there are, None where that is not known: a loader of a stream has no length to tell.

    >>> length_of([1, 2]), length_of(iter([1, 2]))
    (2, None)
    """
    try:
        with _refusing("data", "asking for their number"):
            return len(feeds)
    except DataError:
        return None


# -- feeds -------------------------------------------------------------------------------------------------


def read_feeds(
    source: object, feeds: Iterable[tuple[str, Any]], inputs: Sequence[Port], max_samples: int | None
) -> Table:
    """Return the samples of all feeds, in memory or in a temporary file; stop at `max_samples`.

    Args:
        source: words for the source of all feeds.
        feeds: the feeds, each behind the words for its source.
        inputs: of the model.
        max_samples: read at most so many; None reads all.

    Raises:
        DataError: when there are none, or one does not fit the inputs.
    """
    shared: dict[str, Array] = {}
    columns = gathered(_parts(feeds, inputs, max_samples, shared))
    if not columns:
        raise DataError(f"{source}: there are no feeds; expected at least one, {_EXPECTED}")
    count = length(next(iter(columns.values())))
    labels = columns.pop(LABELS) if LABELS in columns and all(port.name != LABELS for port in inputs) else None
    ordered = {port.name: shared[port.name] if port.name in shared else columns[port.name] for port in inputs}
    return ordered, None if labels is None else np.asarray(labels), count


def _parts(
    feeds: Iterable[tuple[str, Any]], inputs: Sequence[Port], max_samples: int | None, shared: dict[str, Array]
) -> Iterator[dict[str, Array]]:
    """Yield arrays ``[samples, ...]`` by input, and labels; inputs that all samples share go to `shared`."""
    step = batch_of(inputs).step
    most = min(max_samples or MOST_SAMPLES + step, MOST_SAMPLES + step)  # one batch more than may be
    left = max(most // step, 1) * step
    names: set[str] = set()
    for where, feed in feeds:
        part = fitted_feed(where, feed_arrays(where, feed, inputs), inputs)
        for name in _shared_names(part, inputs):
            _check_shared(where, name, part[name], shared.setdefault(name, part[name]))
            del part[name]
        names = names or set(part)
        if names != set(part):
            which = "has" if LABELS in part else "has no"
            raise DataError(f"{where} {which} {LABELS!r}, unlike those before it; give them with all or none")
        count = len(next(iter(part.values())))
        yield {name: array[:left] for name, array in part.items()}
        left -= count
        if left <= 0:
            return


def feed_arrays(where: str, feed: Any, inputs: Sequence[Port]) -> dict[str, Array]:
    """Return the arrays of a feed by name; a tuple holds one per input, and may end with labels."""
    if isinstance(feed, Mapping):
        return arrays_of(where, feed)
    names = [port.name for port in inputs]
    values = list(feed) if isinstance(feed, (tuple, list)) else [feed]
    if len(values) == len(names) + 1 and LABELS not in names:
        names.append(LABELS)
    if len(values) != len(names):
        takes = ", ".join(map(repr, names))
        raise DataError(
            f"{where} holds {len(values)} arrays; the model takes {len(names)} ({takes}), and {LABELS!r} may follow"
        )
    return {name: as_array(where, name, value) for name, value in zip(names, values, strict=True)}


def arrays_of(where: str, feed: Mapping[Any, Any]) -> dict[str, Array]:
    """Return the arrays of a mapping by name.

    Raises:
        DataError: when it raises, or holds anything else.
    """
    with _refusing(where, "reading its arrays"):
        values = {str(name): value for name, value in feed.items()}
    return {name: as_array(where, name, value) for name, value in values.items()}


def fitted_feed(where: str, arrays: Mapping[str, Array], inputs: Sequence[Port]) -> dict[str, Array]:
    """Return the arrays of one feed in the types of the inputs, samples along the first axis, and its labels.

    Raises:
        DataError: when one does not fit, or they hold different numbers of samples.
    """
    check_names(where, arrays, inputs, "the feed")
    fitted_arrays = fitted_inputs(where, arrays, inputs, may_lack_axis=True)
    alike = _shared_names(fitted_arrays, inputs)
    count = counted(where, {name: array for name, array in fitted_arrays.items() if name not in alike})
    if LABELS in arrays and LABELS not in fitted_arrays:
        fitted_arrays[LABELS] = checked_labels(where, arrays[LABELS], count)
    return fitted_arrays


def is_array(value: object) -> bool:
    """Whether a value is an array of numpy or of another library: a tensor."""
    try:
        with _refusing("data", "asking for an attribute"):
            return (
                isinstance(value, np.ndarray) or hasattr(value, "__array__") or callable(getattr(value, "numpy", None))
            )
    except DataError:  # it is none, then
        return False


def as_array(where: str, name: str, value: Any) -> Array:
    """Return a value of any array library, a number, or a list of numbers as a numpy array.

    Raises:
        DataError: when it is none of these.
    """
    refusal = f"{where}: array {name!r} cannot be made an array from {type(value).__name__}: "
    with code_of_others(lambda error: DataError(refusal + said(error))):
        for method in ("detach", "cpu"):  # a tensor of torch that is part of a computation, or lies on a device
            value = getattr(value, method)() if callable(getattr(value, method, None)) else value
        if not hasattr(value, "__array__") and callable(getattr(value, "numpy", None)):
            value = value.numpy()
        array = np.asarray(value)
    if array.dtype.kind == "O" and not all(isinstance(item, str) for item in array.reshape(-1)):
        kind = type(value).__name__
        raise DataError(f"{where}: array {name!r} is of type {kind}; expected an array of numbers, or text")
    return array


def _shared_names(arrays: Mapping[str, Array], inputs: Sequence[Port]) -> list[str]:
    """Return the inputs of a feed that all samples share."""
    shared = {port.name for port in inputs if is_shared(port)}
    return [name for name, array in arrays.items() if name in shared or not array.ndim]


def _check_shared(where: str, name: str, value: Array, first: Array) -> None:
    if np.array_equal(value, first):
        return
    if not value.ndim:
        message = f"is a scalar that all samples share, but {value} here and {first} before"
    else:
        message = f"of shape {list(value.shape)} has no axis of samples: all share it, but it differs from those before"
    raise DataError(f"{where}: input {name!r} {message}")
