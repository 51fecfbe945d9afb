"""The soak goes on where it stopped, and the oldest versions are those that pyproject.toml states; nothing is run."""

from __future__ import annotations

import sys

import pytest

from tools.proofs import soak, versions

CLEAN, CHANGED = ("abc", False), ("abc", True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs the soak in a state of the files and returns its exit code and the parts it took."""
    monkeypatch.setattr(soak, "BUILD", tmp_path)
    monkeypatch.setattr(soak, "PAGE", tmp_path / "soak.md")

    def run(state, failing=(), *arguments):
        taken = []

        def perform(part):
            taken.append(part.name)
            return soak.Outcome(part.name, part.name not in failing, 1.0, "3 passed", *state)

        monkeypatch.setattr(soak.logged, "state", lambda: state)
        monkeypatch.setattr(soak, "perform", perform)
        monkeypatch.setattr(sys, "argv", ["soak", *arguments])
        return soak.main(), taken

    return run


NAMES = [part.name for part in soak.parts(1)]


def test_what_passed_at_a_commit_stays_passed(run, tmp_path):
    assert run(CLEAN, ["bundled"]) == (1, NAMES)
    assert "**failed**" in (tmp_path / "soak.md").read_text()
    assert run(CLEAN) == (0, ["bundled"])
    assert run(CLEAN) == (0, [])
    assert run(("def", False)) == (0, NAMES)
    assert (tmp_path / "soak.md").read_text().count("| passed |") == len(NAMES)


def test_with_changed_files_nothing_stays_passed(run):
    assert run(CLEAN) == (0, NAMES)
    assert run(CHANGED) == (0, NAMES)
    assert run(CLEAN) == (0, NAMES)


def test_parts_are_taken_by_name(run, tmp_path):
    assert run(CLEAN, (), "--part", "zoo") == (0, ["zoo"])
    assert (tmp_path / "soak.md").read_text().count("| not run |") == len(NAMES) - 1
    with pytest.raises(SystemExit):
        run(CLEAN, (), "--part", "zo")


def test_random_parts_take_every_seed_once():
    starts = [int(part.command[-1]) for part in soak.parts(1) if part.name.startswith("random")]
    assert starts == list(range(0, soak.GRAPHS, soak.CHUNK))


def test_every_requirement_has_a_lower_bound_to_pin():
    for requirement in versions.requirements():
        name, _, bound = versions.pinned(requirement).partition("==")
        assert requirement.startswith(f"{name}>={bound}")
