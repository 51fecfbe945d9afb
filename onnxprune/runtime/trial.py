"""Trials: a model that may end ONNX Runtime is opened in another process first, so that this one goes on.

ONNX Runtime rewrites a model when it opens it, and a fault in one of its optimisers ends the whole process: no
exception, no message, and what was computed for minutes is lost. Optimisers are written for models in single precision.
In half precision most operators have no kernel on the CPU; ONNX Runtime puts Casts around them, and its optimisers then
meet graphs that nobody wrote. Version 1.32 dies of ``Transpose -> MatMul`` in float16 where the first axis is moved:
MatmulTransposeFusion moves the Cast between them before the Transpose, and NchwcTransformer reads the type of a value
in between that has none. So models that hold values in half precision are tried on the CPU, and no others.

A trial gives the first of `SETTINGS` with which the process lives. It depends on the structure of the model alone, so
that it is made once for each, and any process comes to the same. What was refused, such as a file whose weights are
missing, is tried again when it is opened again. One helper makes all trials, until it dies of one.

Large weights of a model in memory are not sent at first: they are zeros in a trial, with which most models are opened.
What is not, by a fault or because ONNX Runtime refuses zeros (a shape that is computed from weights, a whole number to
divide by), is tried with the weights themselves, and that counts. A fault is missed only where it depends on numbers
that zeros are as good for.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnxruntime as ort

from onnxprune.errors import InputError
from onnxprune.graph.files.limits import most_bytes
from onnxprune.graph.files.outline import holds_half, outline, structure_key
from onnxprune.graph.tensors import Array
from onnxprune.runtime.custom_ops import libraries
from onnxprune.runtime.helper import Answer, Helper
from onnxprune.runtime.time_limit import RUN_S, limit_s
from onnxprune.runtime.trial_process import Request

_FOLDER = "session.model_external_initializers_file_folder_path"
_FOLDED = "optimization.constant_folding_max_output_size_in_bytes"
_PIPED_BYTES = 2**24  # of a serialized model; a larger one goes through a temporary file


@dataclass(frozen=True)
class Setting:
    """How much of ONNX Runtime's optimisation a session has."""

    words: str  # behind "it is opened"
    level: str  # a name in onnxruntime.GraphOptimizationLevel
    disabled: tuple[str, ...] = ()  # optimisers


ALL = Setting("with all optimisers", "ORT_ENABLE_ALL")
BASIC = Setting("with its basic optimisers alone", "ORT_ENABLE_BASIC")
NONE = Setting("without optimisers", "ORT_DISABLE_ALL")
SETTINGS = (  # in the order in which they are tried: each takes more time of the runs than the one before it
    ALL,
    Setting("without its optimiser of layouts, NchwcTransformer", "ORT_ENABLE_ALL", ("NchwcTransformer",)),
    BASIC,
    NONE,
)


@dataclass(frozen=True)
class Source:
    """A model that is to be opened."""

    content: str | bytes  # the path of the file, or a serialized model
    arrays: Mapping[str, Array] = field(default_factory=dict)  # large tensors that lie beside it
    folder: str | None = None  # of external data of a model in bytes

    @property
    def place(self) -> Path | bytes:
        """The content, as this package takes it."""
        return self.content if isinstance(self.content, bytes) else Path(self.content)


@dataclass(frozen=True)
class Outcome:
    """What came of trying a model with all optimisers first, or with a later setting."""

    setting: Setting | None  # the first that a process lives with; None where there is none
    died_of: str = ""  # what ended the process before: the name of a signal, or a status of Windows
    is_final: bool = True  # False where the next trial may tell more, see `helper.Answer`

    @property
    def sentence(self) -> str:
        """What a user is told; empty where the model is opened as any other."""
        if not self.died_of or self.setting is None:
            return ""
        return (
            f"ONNX Runtime {ort.__version__} dies of {self.died_of} when it opens the model on the CPU {ALL.words}, so "
            f"it is opened {self.setting.words}"
        )

    def settled(self, where: str) -> Setting:
        """Return the setting.

        Raises:
            InputError: when there is none.
        """
        if self.setting is None:
            raise InputError(
                f"{where}: ONNX Runtime {ort.__version__} dies of {self.died_of} when it opens the model on the CPU, "
                "also without optimisers; try another release of onnxruntime, or prune the model in single precision "
                "and convert the result"
            )
        return self.setting


def session_entries(exact: bool, folder: str | None) -> dict[str, str]:
    """Return the entries of a session's configuration that decide how a model is opened.

    Args:
        exact: as for `session.open_session`.
        folder: of external data of a model in bytes.
    """
    # A few bytes can state gigabytes of constants; what is not computed once is computed in every run.
    entries = {_FOLDED: str(most_bytes())}
    if folder is not None:
        entries[_FOLDER] = folder
    if exact:
        entries["session.x64quantprecision"] = "1"
    return entries


def setting_for(source: Source, first: Setting, where: str, exact: bool = False) -> Setting:
    """Return the setting with which a model can be opened on the CPU.

    Args:
        source: the model.
        first: the setting that is tried first, and returned for a model without values in half precision.
        where: what an error calls the model.
        exact: as for `session.open_session`.

    Raises:
        InputError: when ONNX Runtime dies of every setting from the first one on.
    """
    proto = outline(source.place)
    if proto is None or not holds_half(proto):
        return first
    return outcome_of(structure_key(proto), first, lambda: source, exact).settled(where)


@contextlib.contextmanager
def limited_to(setting: Setting) -> Iterator[None]:
    """Let sessions that are opened on the CPU within the block have no more optimisation than this."""
    token = _FIRST.set(strictest([setting, _FIRST.get()]))
    try:
        yield
    finally:
        _FIRST.reset(token)


def first_setting(wanted: Setting = ALL) -> Setting:
    """Return the setting that a session on the CPU is tried with first: this, or that of `limited_to` if stricter."""
    return strictest([_FIRST.get(), wanted])


def strictest(settings: Sequence[Setting]) -> Setting:
    """Return the setting with the fewest optimisations.

    >>> strictest([NONE, ALL]) == NONE
    True
    """
    return max(settings, key=SETTINGS.index)


_FIRST: contextvars.ContextVar[Setting] = contextvars.ContextVar("setting", default=ALL)
_HELPER = Helper()
_outcomes: dict[tuple[str, Setting, bool], Outcome] = {}


def _forget() -> None:
    _HELPER.forget()


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_forget)


def outcome_of(key: str, first: Setting, source: Callable[[], Source], exact: bool = False) -> Outcome:
    """Return what came of the trials of a structure; they are made where they were not made in this process.

    Args:
        key: of the structure.
        first: the setting that is tried first.
        source: returns a model of the structure.
        exact: as for `session.open_session`.
    """
    about = key, first, exact
    if about in _outcomes:  # what is known does not wait for the trial of another model
        return _outcomes[about]
    with _HELPER.lock:
        if about not in _outcomes:
            outcome = _tried(source(), first, exact)
            if not outcome.is_final:
                return outcome
            _outcomes[about] = outcome
        return _outcomes[about]


def _tried(source: Source, first: Setting, exact: bool) -> Outcome:
    """Open a model in the helper with one setting after the other, until that lives."""
    died_of = ""
    weights = tuple((name, array.dtype.str, array.shape) for name, array in source.arrays.items())
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as scratch:
        content, loaded = _sendable(source.content, Path(scratch)), tuple(libraries(source.place))
        request = Request(content, first.level, (), weights, session_entries(exact, source.folder), loaded)
        for setting in SETTINGS[SETTINGS.index(first) :]:
            answer = _answer(replace(request, level=setting.level, disabled=setting.disabled), source)
            if not answer.died_of:
                return Outcome(setting, died_of, answer.is_final)
            died_of = died_of or answer.died_of
    return Outcome(None, died_of)


def _answer(request: Request, source: Source) -> Answer:
    """Return what opening a model does to the helper, with zeros for large weights or else with the weights."""
    seconds = max(limit_s(source.place), RUN_S)
    answer = _HELPER.asked(request, seconds)
    if not source.arrays or not (answer.is_refused or answer.died_of):
        return answer
    with_weights = _HELPER.asked(replace(request, arrays=dict(source.arrays)), seconds)
    return with_weights if with_weights.is_final or with_weights.is_refused else answer


def _sendable(content: str | bytes, scratch: Path) -> str | bytes:
    """Return a model as the helper takes it: the path of its file, or a few megabytes."""
    if isinstance(content, str):
        return str(Path(content).absolute())  # the helper stays in the folder that it was started in
    if len(content) <= _PIPED_BYTES:
        return content
    path = scratch / "model.onnx"
    path.write_bytes(content)
    return str(path)
