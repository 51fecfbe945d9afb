"""Everything that onnxprune raises on purpose.

::

    OnnxpruneError            exit code
    ├── InputError            2    the file, the data or an option is wrong; nothing was written
    │   ├── TookTooLong       2    a run of the model did not end in the time that one may take
    │   ├── ModelError        2    not an ONNX model that can be read and run
    │   ├── DataError         2    feeds that do not fit the model's inputs
    │   │   └── TooLarge      2    feeds that would take more memory than is allowed
    │   └── OptionError       2    a value outside its range, a name that matches nothing
    │       └── UnreachableTarget  2    a target that no plan meets; says what can be reached
    ├── NothingToPrune        3    no group of this model can lose a unit; says why
    │   └── MetAlready        3    the model meets all targets as it is
    ├── VerificationError     1    the pruned model differs from the masked one; nothing was written
    └── CutError              4    a node could be traced but not cut, a fault of onnxprune; says how to go around it

Any other exception is a fault of the package: the command line ends with exit code 4.

Inner code raises `CannotUnify` with a short sentence; `dependency.trace` turns it into a lock that names the node.
`CannotTurn` names the node itself; `commands.ways.rotate` says of which stream. Neither leaves the package.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType


class OnnxpruneError(Exception):
    """Base of all errors that are for the user; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(OnnxpruneError):
    """A model, data or an option that cannot be used."""


class ModelError(InputError):
    """The file is no ONNX model, or one that cannot be loaded, checked or run."""


class TookTooLong(InputError):
    """A run did not end within its time limit. It is no `ModelError`: other sizes or settings are not tried then."""


class DataError(InputError):
    """The feeds do not fit the inputs of the model."""


class TooLarge(DataError):
    """Feeds of these sizes would take more memory than is allowed for what a file states."""


class OptionError(InputError):
    """An option's value is outside its range, or names something that is not there."""


class UnreachableTarget(OptionError):
    """No plan meets the targets; `best` has the least cost that can be reached, by kind, over the original's."""

    def __init__(self, message: str, best: Mapping[str, float] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.best = dict(best)


class NothingToPrune(OnnxpruneError):
    """No group can lose a unit under these options."""

    exit_code = 3


class MetAlready(NothingToPrune):
    """The model meets all targets as it is, or in the form in which it is deployed."""


class VerificationError(OnnxpruneError):
    """The pruned model does not compute what the masked model computes."""

    exit_code = 1


class CutError(OnnxpruneError):
    """A node or a weight that the plan cuts cannot be written back; the message says how to leave it alone."""

    exit_code = 4


class CannotUnify(Exception):
    """Two axes that an op equates have no common refinement."""


class CannotTurn(Exception):
    """What a node computes of a stream changes when the stream is written in other directions."""


# -- what others say -----------------------------------------------------------------------------------------------


def shortened(text: str, most: int = 300) -> str:
    """Return text of at most so many characters, without its middle if it is longer.

    >>> shortened("x" * 500, 20)
    'xxxxxxx ... xxxxxxxx'
    """
    kept = most - len(" ... ")
    return text if len(text) <= most else f"{text[: kept // 2]} ... {text[len(text) - kept + kept // 2 :]}"


def said(error: BaseException) -> str:
    """Return kind and message of an exception, whoever raised it, in one line that can stand in a sentence.

    >>> said(ValueError("no such photo"))
    'ValueError: no such photo'
    """
    try:
        message = shortened(" ".join(shortened(str(error), 3000).split()))
    except Exception:  # its own words may fail, too
        message = ""
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def said_where(error: BaseException) -> str:
    """Return what an exception of the user's code says, with the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{said(error)} ({Path(frame.filename).name}, line {frame.lineno})"


@contextlib.contextmanager
def code_of_others(error_for: Callable[[BaseException], OnnxpruneError]) -> Iterator[None]:
    """Turn whatever the user's code raises within the block into an error; an interrupt alone ends the run.

    Args:
        error_for: returns the error for an exception, which need not be an `Exception`: a task that is cancelled, a
            test that gives up and an exit of the process are none.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise error_for(error) from error
