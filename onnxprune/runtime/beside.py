"""Steps that run side by side in one process, on as many cores as there are, with the same results on any number.

Numpy and ONNX Runtime let other threads run while they compute. So steps that do not depend on each other share the
cores: each gets its part of them, for its algebra and for the sessions that it opens. How many run at the same time is
bounded, and with it the memory.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from onnxprune.algebra.threads import cores, cores_limited, share_heap
from onnxprune.runtime.session import threads_limited

SWITCH_S = 1e-4  # that one thread keeps the others from running Python
MOST = 4  # steps that run side by side at most: each needs memory of its own

Item = TypeVar("Item")
Result = TypeVar("Result")


def beside(function: Callable[[Item], Result], items: Iterable[Item], most: int = MOST) -> Iterator[Result]:
    """Yield what `function` makes of each item, in order; the next items are worked on meanwhile.

    What an item gives must not depend on the others. Items are taken from `items` in the thread of the caller, each
    when there is room for it: at most `most` of them, and no more than there are cores, are worked on at the same time.
    The result of one that was quicker than one before it waits for that, one result at most beside those at work.

    Args:
        function: of one item; on one core it is called in the thread of the caller.
        items: perhaps made on demand.
        most: items that are worked on at the same time.
    """
    count = side_by_side(most)
    if count < 2:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    share = max(1, cores() // count)
    pool = ThreadPoolExecutor(count, "onnxprune-beside")
    with _taking_turns():
        try:
            for item in _made(items, pending):
                pending.append(pool.submit(contextvars.copy_context().run, _limited, function, item, share))
                del item  # it may be large, and is the worker's now
                while (at_work := [each for each in pending if not each.done()]) and len(at_work) >= count:
                    wait(at_work, return_when=FIRST_COMPLETED)
                while pending and (pending[0].done() or len(pending) > count):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _made(items: Iterable[Item], pending: Iterable[Future[Result]]) -> Iterator[Item]:
    """Yield items; where one cannot be made, what an earlier one ended with is raised, if it did."""
    try:
        yield from items
    except Exception:
        for each in pending:
            each.result()
        raise


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, each of which is made in another thread while the caller is at work with the one before.

    On one core they are made on demand. Items are made one after the other: each may go on from the last.
    """
    if cores() < 2:
        yield from items
        return
    source, share = iter(items), cores() // 2
    with _taking_turns(), ThreadPoolExecutor(1, "onnxprune-ahead") as pool:

        def begin() -> Future[list[Item]]:
            context = contextvars.copy_context()
            return pool.submit(lambda: context.run(_limited, _taken, source, share))

        pending = begin()
        while item := pending.result():
            pending = begin()
            yield item[0]


@dataclass
class _Turns:
    """How many blocks of all threads want short turns: the interval is the process's."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: int = 0
    before: float = 0.0  # the interval before the first of them, restored after the last


_TURNS = _Turns()


@contextlib.contextmanager
def _taking_turns() -> Iterator[None]:
    """Let threads that come back from a computation wait for the others only shortly, within the block.

    By default the one that runs Python keeps the others waiting for 5 ms, which is longer than most of what is computed
    in between takes.
    """
    share_heap()
    with _TURNS.lock:
        if not _TURNS.blocks:
            _TURNS.before = sys.getswitchinterval()
            sys.setswitchinterval(min(_TURNS.before, SWITCH_S))
        _TURNS.blocks += 1
    try:
        yield
    finally:
        with _TURNS.lock:
            _TURNS.blocks -= 1
            if not _TURNS.blocks:
                sys.setswitchinterval(_TURNS.before)


def _taken(source: Iterator[Item]) -> list[Item]:
    """Return the next item, nothing behind the last."""
    return list(itertools.islice(source, 1))


def side_by_side(most: int = MOST) -> int:
    """Return how many steps run at the same time here, if there are so many at most."""
    return max(1, min(most, cores()))


def _limited(function: Callable[[Item], Result], item: Item, share: int) -> Result:
    """Call a function with its share of the cores."""
    with cores_limited(share), threads_limited(share):
        return function(item)
