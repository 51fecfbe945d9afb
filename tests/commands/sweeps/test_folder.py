"""The memory of a sweep: what is kept is read back to the bit, and whatever else lies there is as nothing."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from onnxprune.commands.sweeps import folder as sweep_folder
from onnxprune.commands.sweeps.folder import SweepFolder
from onnxprune.commands.sweeps.members import Member
from onnxprune.graph.files.publish import Reads
from onnxprune.planning.curves.curve import Curve
from onnxprune.planning.options import make_options
from onnxprune.planning.plan import Evidence

KEY = "0123456789abcdef0"
UNITS = {"a": 6, "b": 4}
CURVE = Curve((3, 1, 0, 5), (0, 2, 4), (0.0, 0.1, float("nan")), (0.0, 0.05, 1 / 3), (4,))
EVIDENCE = Evidence({"a": np.arange(6) / 3, "b": np.ones(4, np.float32)}, {"a": CURVE}, 8)
MEMBER = Member("net_macs_0.6", 0.6, make_options(), {"seed": 0})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".sweep").mkdir()
    return SweepFolder(tmp_path, Reads(None), force=False)


@pytest.fixture
def memory(folder):
    """The file that curves are kept in."""
    folder.keep_evidence(KEY, EVIDENCE)
    (path,) = (folder.path / ".sweep").glob("curves-*.json")
    return path


def test_what_is_kept_is_read_to_the_bit(folder, memory):
    kept = folder.evidence(KEY, UNITS)
    assert repr(kept.curves) == repr(EVIDENCE.curves)
    assert kept.judged == 8
    assert {name: (each.dtype, each.tolist()) for name, each in kept.scores.items()} == {
        name: (each.dtype, each.tolist()) for name, each in EVIDENCE.scores.items()
    }


def spoilt(*path, to):
    """Return a function that sets a place in what is kept of curves."""

    def spoil(text):
        plain = json.loads(text)
        place = plain
        for step in path[:-1]:
            place = next(iter(place.values())) if step == "*" else place[step]
        key = next(iter(place)) if path[-1] == "*" else path[-1]
        place[key] = to(place[key]) if callable(to) else to
        return json.dumps(plain)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        spoilt("judged", to=-1),
        spoilt("judged", to=None),
        spoilt("curves", "*", "order", to=lambda order: [10**9, *order[1:]]),
        spoilt("curves", "*", "order", to=lambda order: [-1, *order[1:]]),
        spoilt("curves", "*", "order", to=lambda order: [order[1], *order[1:]]),
        spoilt("curves", "*", "removed", to=lambda removed: removed[::-1]),
        spoilt("curves", "*", "removed", to=lambda removed: [*removed[:-1], 10**9]),
        spoilt("curves", "*", "removed", to=lambda removed: [*removed[:-1], removed[-1] + 0.5]),
        spoilt("curves", "*", "errors", to=lambda errors: errors[1:]),
        spoilt("curves", "*", "losses", to=lambda losses: ["x", *losses[1:]]),
        spoilt("curves", "*", "losses", to=lambda losses: [10**400, *losses[1:]]),
        spoilt("curves", "*", "told", to=[10**9]),
        spoilt("scores", "*", "of", to=lambda scores: scores[1:]),
        spoilt("scores", "*", "type", to="int8"),
        spoilt("scores", to={}),
        spoilt("scores", to=lambda scores: {"strange": next(iter(scores.values()))}),
    ],
)  # fmt: skip
def test_curves_that_are_damaged_are_as_none(folder, memory, spoil):
    memory.write_text(spoil(memory.read_text()))
    assert folder.evidence(KEY, UNITS) is None


def test_curves_of_other_groups_are_as_none(folder, memory):
    assert folder.evidence(KEY, {"a": 6}) is None
    assert folder.evidence(KEY, {"a": 5, "b": 4}) is None


def test_a_memory_that_is_too_large_is_as_none(folder, memory, monkeypatch):
    monkeypatch.setattr(sweep_folder, "MOST_BYTES", 100)
    assert folder.evidence(KEY, UNITS) is None


@pytest.mark.parametrize("content", ["", "[" * 100_000, "[]", '{"key": 0, "made_from": 1, "sha256": 2}'])
def test_a_record_that_is_damaged_is_as_none(folder, content):
    folder.record(MEMBER).write_text(content)
    folder.refuse_others([MEMBER])
    assert folder.recorded(MEMBER) is None


@pytest.mark.parametrize("why", ["[1]", "null", "3"])
def test_a_reason_that_is_no_text_is_none(folder, why):
    folder.note_none(MEMBER, "because")
    assert folder.why_none(MEMBER) == "because"
    note = folder.path / ".sweep" / "net_macs_0.6.none.json"
    note.write_text(note.read_text().replace(json.dumps("because"), why))
    assert folder.why_none(MEMBER) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_pipes_in_place_of_a_memory_are_not_waited_for(folder, memory):
    memory.unlink()
    for path in (memory, folder.record(MEMBER), folder.path / ".sweep" / "net_macs_0.6.none.json"):
        os.mkfifo(path)
    assert folder.evidence(KEY, UNITS) is None
    assert folder.recorded(MEMBER) is None
    assert folder.why_none(MEMBER) is None
    assert not folder.has(MEMBER)
