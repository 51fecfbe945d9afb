"""Steps run side by side, a bounded number of them, and their results come in order on any number of cores."""

from __future__ import annotations

import sys
import threading

import pytest

from onnxprune.algebra.threads import cores, cores_limited
from onnxprune.runtime.beside import SWITCH_S, _taking_turns, ahead, beside
from onnxprune.runtime.session import open_session
from tests.support.build import ROWS, model


def test_steps_run_side_by_side_and_come_in_order():
    both = threading.Barrier(2)

    def work(item):
        both.wait(60)  # passes only when two are under way
        return item

    with cores_limited(2):
        assert list(beside(work, [3, 1, 2, 0])) == [3, 1, 2, 0]


@pytest.mark.parametrize(("limit", "most", "expected"), [(1, 4, 1), (2, 4, 2), (8, 4, 4), (8, 1, 1)])
def test_no_more_items_are_worked_on_at_the_same_time_than_may(limit, most, expected):
    lock, at_work, largest, waiting = threading.Lock(), set(), [], [0]
    together = threading.Barrier(expected)  # passes only when so many are at work

    def items():
        for number in range(12):
            waiting[0] += 1
            assert waiting[0] <= expected + (expected > 1)
            yield number

    def work(number):
        with lock:
            at_work.add(number)
            largest.append(len(at_work))
        together.wait(60)
        with lock:
            at_work.discard(number)
        return number

    with cores_limited(limit):
        for _ in beside(work, items(), most):
            waiting[0] -= 1
    assert max(largest) == expected


def test_quick_items_do_not_wait_for_a_slow_one_before_them():
    later = threading.Event()

    def work(item):
        if item == 2:
            later.set()
        return item if item else later.wait(60)

    with cores_limited(2):
        assert list(beside(work, range(4))) == [True, 1, 2, 3]


def test_each_step_has_its_share_of_the_cores():
    with cores_limited(8):
        assert list(beside(lambda _: cores(), range(3), 4)) == [2, 2, 2]
        assert list(ahead(cores() for _ in range(2))) == [4, 4]
    with cores_limited(1):
        assert list(beside(lambda _: threading.current_thread(), [0])) == [threading.main_thread()]
        assert list(ahead(threading.current_thread() for _ in range(1))) == [threading.main_thread()]


def test_sessions_of_a_step_have_its_share_of_the_cores():
    proto = model("y = Relu(x)", x=ROWS)

    def threads(_):
        session = open_session(proto.SerializeToString())
        return session.ort.get_session_options().intra_op_num_threads

    with cores_limited(2):
        assert list(beside(threads, range(2))) == [1, 1]


def test_an_item_is_made_while_the_one_before_is_in_use():
    made = [threading.Event() for _ in range(3)]

    def items():
        for number in range(3):
            made[number].set()
            yield number

    with cores_limited(2):
        for number in ahead(items()):
            assert number == 2 or made[number + 1].wait(60)


@pytest.mark.parametrize("limit", [1, 2])
def test_what_a_step_raises_is_raised_and_ends_the_others(limit):
    def fail(item):
        if item == 1:
            raise ValueError("of the second")
        return item

    def failing():
        yield 0
        raise ValueError("of the source")

    def broken():
        yield from (0, 1)
        raise ValueError("of what is made")

    before = sys.getswitchinterval()
    with cores_limited(limit):
        with pytest.raises(ValueError, match="of the second"):
            list(beside(fail, [0, 1, 2]))
        with pytest.raises(ValueError, match="of the second"):
            list(beside(fail, broken()))
        with pytest.raises(ValueError, match="of what is made"):
            list(beside(str, broken()))
        with pytest.raises(ValueError, match="of the source"):
            list(ahead(failing()))
    assert sys.getswitchinterval() == before


def test_blocks_of_several_threads_leave_the_interval_as_it_was():
    before, entered, left = sys.getswitchinterval(), threading.Event(), threading.Event()

    def other():
        with _taking_turns():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with _taking_turns():
        thread.start()
        assert entered.wait(10)
    assert sys.getswitchinterval() == pytest.approx(min(before, SWITCH_S))
    left.set()
    thread.join()
    assert sys.getswitchinterval() == pytest.approx(before)
