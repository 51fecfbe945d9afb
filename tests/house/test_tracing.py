"""Coverage is measured in the first moments of a test function, and where modules are imported."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from tests.support import tracing
from tests.support.tracing import imports_traced_alone, traced_at_first

pytestmark = pytest.mark.traced  # what is tested here is not at work around it


def nothing(*_):
    """Trace no line of a function that is called."""


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    """Lines are traced by `nothing`, and no function has begun."""
    before, of_threads = sys.gettrace(), threading.gettrace()
    monkeypatch.setitem(tracing._LEFT, "first", 0.02)
    monkeypatch.setitem(tracing._LEFT, "second", 5.0)
    sys.settrace(nothing)
    yield
    sys.settrace(before)
    threading.settrace(of_threads)


def test_the_seconds_of_a_function_are_for_all_its_cases():
    with traced_at_first("first"):
        assert sys.gettrace() is nothing
        start = time.process_time()
        while sys.gettrace() is not None and time.process_time() - start < 5:
            pass
        assert threading.gettrace() is None
    assert sys.gettrace() is threading.gettrace() is nothing
    with traced_at_first("first"):
        assert sys.gettrace() is None
    with traced_at_first("second"):
        assert sys.gettrace() is nothing
    assert tracing._LEFT["first"] < 0 < tracing._LEFT["second"] < 5


def test_what_a_test_raises_is_raised_and_lines_are_traced_again():
    tracing._LEFT["first"] = 0
    with pytest.raises(KeyError), traced_at_first("first"):
        raise KeyError
    assert sys.gettrace() is nothing


def test_lines_are_traced_to_the_end_where_there_is_no_such_clock(monkeypatch):
    monkeypatch.delattr(signal, "setitimer")
    tracing._LEFT["first"] = 0
    with traced_at_first("first"):
        assert sys.gettrace() is nothing


def test_without_coverage_nothing_is_traced():
    sys.settrace(None)
    with traced_at_first("first"), imports_traced_alone():
        assert sys.gettrace() is None
    assert sys.gettrace() is None


def test_what_collecting_runs_is_not_traced():
    with imports_traced_alone():
        assert sys.gettrace() is None
        assert "onnxprune.training.tuner" in sys.modules
    assert sys.gettrace() is nothing
