"""The last resort: what nobody foresaw ends in a sentence, too, with the step, the node, and how to report it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

_PACKAGE = Path(__file__).parents[1]
FAULT = 4  # exit code of a fault of onnxprune itself
_LONGEST = 300  # characters that are shown of what an exception says
_STEPS = MappingProxyType(  # room -> what is done there
    {
        "graph": "reading the model",
        "dependency": "tracing",
        "surgery": "cutting",
        "criteria": "scoring",
        "metrics": "comparing outputs",
        "runtime": "running the model",
        "data": "reading samples",
        "latency": "timing",
        "calibration": "calibrating",
        "recovery": "refitting",
        "planning": "planning",
        "evaluation": "verifying",
        "report": "reporting",
    }
)


def sentence_of(error: BaseException, less: Sequence[str] = ()) -> tuple[str, int]:
    """Return what is printed for an exception that nobody foresaw, and the exit code.

    Args:
        error: a `MemoryError` and an `ImportError` are faults of the surroundings, all others are ours.
        less: what may be asked for so that a run takes less memory, in words.
    """
    where = place_of(error)
    if isinstance(error, MemoryError):
        asked = f", or ask for less: {', '.join(less)}" if less else ""
        return f"out of memory{where}: close other programs{asked}", 2
    if isinstance(error, ImportError):
        return f"a package that is needed cannot be imported{where}: {_said(error)}; install onnxprune again", 2
    return (
        f"unexpected {type(error).__name__}{where}: {_said(error)}. This is a fault of onnxprune: please report it "
        "with the file, the command, and what --debug shows",
        FAULT,
    )


def place_of(error: BaseException) -> str:
    """Return the step in which an exception was raised, and the node where one was at hand: `` while tracing, at ...``.

    The step is the first room below the commands that the traceback enters.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    steps = [_STEPS[room] for room in map(_room, frames) if room in _STEPS]
    nodes = [text for frame in reversed(frames) for text in _nodes(frame)]
    step = f" while {steps[0]}" if steps else ""
    return f"{step}, at {nodes[0]}" if step and nodes else step


def _room(frame: FrameType) -> str:
    """Return the room of the package that a frame's code lies in, at any depth; empty for all other code."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(_PACKAGE):
        return ""
    room, *inside = path.relative_to(_PACKAGE).parts
    return room if inside else ""


def _nodes(frame: FrameType) -> Iterator[str]:
    """Yield the nodes of a graph that a frame of this package holds, in words."""
    if not _room(frame):
        return
    for name in ("node", "proto"):
        value: Any = frame.f_locals.get(name)
        if type(value).__name__ == "Node":
            yield str(value)
        elif type(value).__name__ == "NodeProto":
            yield f"{value.op_type} {value.name or next(iter(value.output), '')!r}"


def _said(error: BaseException) -> str:
    """Return the message of an exception in one line, shortened where it is very long."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a message that cannot be made
        text = ""
    text = text or "(no message)"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
