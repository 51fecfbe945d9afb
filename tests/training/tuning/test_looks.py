"""When held-out samples are looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.training.tuning.looks import MOST, Looks


@pytest.mark.parametrize(
    ("share", "every"),
    [(0.0, 5), (0.005, 5), (0.01, 10), (0.02, 20), (0.05, 50), (1.0, 50)],
)
def test_a_run_of_a_hundred_steps_is_looked_at_less_often_where_a_look_takes_longer(share, every):
    looks = Looks(100)
    looks.limit_to(share)
    due = [step for step in range(1, 101) if looks.is_due(step, step / 100)]
    assert due == list(range(every, 101, every))
    assert looks.count == 100 / every


@given(st.integers(1, 10_000), st.floats(0, 2))
def test_a_run_is_looked_at_in_the_end_and_at_most_so_many_times(steps, share):
    looks = Looks(steps)
    looks.limit_to(share)
    due = [step for step in range(1, steps + 1) if looks.is_due(step, step / steps)]
    assert due[-1] == steps
    assert len(due) <= MOST


def test_a_run_whose_length_is_a_time_is_looked_at_some_time_after_the_look_before():
    looks = Looks(0)
    looks.limit_to(0.025)  # a fortieth of the run each: four of them
    looks.go_on(0.2)
    assert [looks.is_due(step, progressed) for step, progressed in ((1, 0.3), (9, 0.44), (10, 0.46))] == [
        False,
        False,
        True,
    ]
    looks.go_on(0.9)
    assert not looks.is_due(11, 0.99)
    assert looks.is_due(12, 1.0)
    assert looks.count == 4
