"""How often a run is saved."""

import pytest

from onnxprune.training.tuning import saving as room
from onnxprune.training.tuning.saving import Saver, Saving


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is told to go on."""
    now = [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.mark.parametrize(("every", "took", "after"), [(60.0, 0.5, 60), (60.0, 10.0, 200), (0.0, 10.0, 0)])
def test_a_run_is_saved_once_a_minute_or_less_often_where_that_takes_long(
    monkeypatch, tmp_path, clock, every, took, after
):
    monkeypatch.setattr(room.checkpoint, "save", lambda *_: clock(took))
    saver = Saver(Saving(tmp_path / "run.checkpoint", {}, resume=False, every_s=every))
    clock(every)
    assert saver.is_due
    saver.save({})
    for second in range(after):
        assert not saver.is_due, second
        clock(1)
    assert saver.is_due


@pytest.mark.parametrize(
    ("took", "since", "pays"), [(0.5, 61, True), (0.5, 59, False), (90.0, 80, False), (90.0, 91, True)]
)
def test_a_run_that_is_done_is_saved_where_that_takes_less_than_what_would_be_repeated(
    monkeypatch, tmp_path, clock, took, since, pays
):
    monkeypatch.setattr(room.checkpoint, "save", lambda *_: clock(took))
    saver = Saver(Saving(tmp_path / "run.checkpoint", {}, resume=False))
    saver.save({})
    clock(since)
    assert saver.pays_at_the_end is pays
