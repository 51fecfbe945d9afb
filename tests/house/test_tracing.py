"""Coverage is measured in the first moments of a test function, and where modules are imported."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.support import tracing
from tests.support.paths import ROOT
from tests.support.tracing import imports_traced_alone, traced_at_first

pytestmark = pytest.mark.traced  # what is tested here is not at work around it


class Measured:
    """Stands for coverage, and is measuring at first."""

    def __init__(self):
        self.at_work, self.changes = True, 0

    def stop(self):
        assert self.at_work
        self.at_work, self.changes = False, self.changes + 1

    def start(self):
        assert not self.at_work
        self.at_work, self.changes = True, self.changes + 1


@pytest.fixture
def measured(monkeypatch):
    """Coverage that is at work, and functions that have not begun."""
    monkeypatch.setitem(tracing._LEFT, "first", 0.02)
    monkeypatch.setitem(tracing._LEFT, "second", 5.0)
    stand_in = Measured()
    monkeypatch.setattr(tracing.Coverage, "current", lambda: stand_in)
    return stand_in


def spin(until, seconds=5):
    start = time.process_time()
    while not until() and time.process_time() - start < seconds:
        pass


def test_the_seconds_of_a_function_are_for_all_its_cases(measured):
    with traced_at_first("first"):
        assert measured.at_work
        spin(lambda: not measured.at_work)
        assert not measured.at_work
    assert measured.at_work
    with traced_at_first("first"):
        assert not measured.at_work
    with traced_at_first("second"):
        assert measured.at_work
    assert (measured.at_work, measured.changes) == (True, 4)
    assert tracing._LEFT["first"] < 0 < tracing._LEFT["second"] < 5


def test_what_a_test_raises_is_raised_and_coverage_goes_on(measured):
    tracing._LEFT["first"] = 0
    with pytest.raises(KeyError), traced_at_first("first"):
        raise KeyError
    assert measured.at_work


def test_it_is_measured_to_the_end_where_there_is_no_such_clock(measured, monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    tracing._LEFT["first"] = 0
    with traced_at_first("first"):
        assert measured.at_work


def test_without_coverage_another_tracer_stays(monkeypatch):
    monkeypatch.setattr(tracing.Coverage, "current", lambda: None)
    before = sys.gettrace()
    tracer = lambda *_: None  # noqa: E731
    sys.settrace(tracer)
    try:
        with traced_at_first("third"), imports_traced_alone():
            assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_what_collecting_runs_is_not_measured(measured):
    with imports_traced_alone():
        assert not measured.at_work
        assert "onnxprune.training.tuner" in sys.modules
    assert measured.at_work


def test_lines_that_did_not_run_are_not_covered(tmp_path):
    """Also where coverage is stopped deep in calls, and goes on at another depth."""
    (tmp_path / "measured.py").write_text(
        "def early():\n    return 1\n\n\ndef late():\n    return 2\n\n\ndef after():\n    return 3\n\n\ndef never():\n"
        + "    a = 1\n" * 500
    )
    program = f"""
        import sys, time
        sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
        import coverage
        cover = coverage.Coverage(data_file=None, config_file=False, include=[{str(tmp_path / "measured.py")!r}])
        cover.start()
        import measured
        from tests.support import tracing
        tracing._LEFT["case"] = 0.02

        def deep(levels):
            if levels:
                return deep(levels - 1)
            end = time.process_time() + 5
            while coverage.Coverage.current() is not None and time.process_time() < end:
                measured.early()
            measured.late()

        with tracing.traced_at_first("case"):
            deep(30)
        for _ in range(100):
            measured.after()
        cover.stop()
        print(sorted(cover.get_data().lines({str(tmp_path / "measured.py")!r})))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 2, 5, 9, 10, 13]"
