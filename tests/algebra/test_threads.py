"""Linear algebra has one thread, and blocks are computed side by side, with the same bits on any number of cores."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from onnxprune.algebra.threads import cores, cores_limited, one_blas_thread, spread


def test_linear_algebra_has_one_thread_within_a_block(blas):
    with one_blas_thread():
        with one_blas_thread():
            assert blas() == 1
        assert blas() == 1
    assert blas() == 2


def test_threads_are_restored_when_the_last_block_ends(blas):
    """Blocks of several threads need not be nested."""
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas() == 1
    second.__exit__(None, None, None)
    assert blas() == 2


def test_items_run_side_by_side_and_come_in_order(blas):
    both = threading.Barrier(2)

    def work(item):
        both.wait(60)  # passes only when two are under way
        return item, blas()

    with cores_limited(2):
        assert spread(work, [3, 1, 2, 0]) == [(3, 1), (1, 1), (2, 1), (0, 1)]
    assert blas() == 2


def test_one_core_takes_no_thread():
    with cores_limited(1):
        assert cores() == 1
        assert spread(lambda _: threading.current_thread(), [0, 1]) == [threading.main_thread()] * 2
        with cores_limited(0):  # changes nothing
            assert cores() == 1
    assert cores() >= 1


def test_what_an_item_raises_is_raised_and_errstate_is_inherited():
    with np.errstate(over="ignore"), cores_limited(2):
        assert spread(lambda x: np.float32(1e38) * np.float32(x), [10, 10]) == [np.inf, np.inf]
    with np.errstate(over="raise"), cores_limited(2), pytest.raises(FloatingPointError):
        spread(lambda x: np.float32(1e38) * np.float32(x), [10, 10])
