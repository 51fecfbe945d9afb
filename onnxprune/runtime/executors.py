"""Where independent tasks run: here, in processes of this machine, or on a Dask cluster.

All speak the interface of `concurrent.futures.Executor`. A task is a function at the top of a module, a *job* (what all
tasks of a run share: the model, the samples) and a picklable value. Results come in the order of the tasks, and no bit
of them depends on how many workers there are:

- what a task computes does not depend on which other tasks its worker has run;
- numpy's linear algebra has one thread in every task, also here: it rounds by how it divides its work. ONNX Runtime
  divides what it writes and not what it adds up, and has as many threads as leave no core to two workers.

The same bits need the same kernels: of one kind of processor, and the same releases of numpy and ONNX Runtime.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import pickle
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune import check
from onnxprune.algebra.threads import cores_limited, one_blas_thread
from onnxprune.errors import InputError, ModelError, OptionError
from onnxprune.graph.dims import FixedDims
from onnxprune.graph.files.encode import fits_one_message, serialize
from onnxprune.graph.files.read import load, parse
from onnxprune.graph.model import Model
from onnxprune.graph.ports import Port
from onnxprune.runtime.cluster import connected
from onnxprune.runtime.session import threads_limited

Job = TypeVar("Job")
Task = TypeVar("Task")
Result = TypeVar("Result")


class Here(Executor):
    """Runs each call where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a future that is done; an interrupt is not kept in it, but ends the run."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # whatever it is, the future holds it
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Workers:
    """An executor, and what has to be known of it."""

    executor: Executor
    count: int = 1  # tasks that run at the same time
    threads: int = 0  # of ONNX Runtime in each task; 0 is its own choice
    near: bool = True  # whether they see the files of this machine
    share: Callable[[bytes], Any] = bytes  # makes of a packed job what each task gets of it
    result: Callable[[Future[Any]], Any] = Future.result  # waits for a task

    @property
    def parallel(self) -> bool:
        """Whether tasks leave this process."""
        return not isinstance(self.executor, Here)

    def map(self, function: Callable[[Job, Task], Result], job: Job, tasks: Sequence[Task]) -> Iterator[Result]:
        """Yield what a function at the top of a module makes of a job and each task, in order.

        In this process a task begins when its result is needed; otherwise all are submitted at once.

        Raises:
            InputError: when a worker process dies; and whatever the function raises.
        """
        if not self.parallel:
            for task in tasks:
                with one_blas_thread():
                    future = self.executor.submit(function, job, task)
                yield future.result()
            return
        packed = pickle.dumps(job, protocol=pickle.HIGHEST_PROTOCOL)
        key, shared = hashlib.sha256(packed).hexdigest(), self.share(packed)
        del packed
        with _dying():
            futures = [self.executor.submit(_perform, function, key, shared, task, self.threads) for task in tasks]
        try:
            for future in futures:
                with _dying():
                    result = self.result(future)
                yield result
        finally:
            for future in futures:
                future.cancel()


ALONE = Workers(Here())  # with the same bits as any number of workers


@contextlib.contextmanager
def workers(count: int = 1, scheduler: str | None = None) -> Iterator[Workers]:
    """Yield `Workers`: of a Dask cluster where a scheduler is given, else so many processes, else none.

    Args:
        count: processes of this machine; 1 is this one.
        scheduler: the address of a Dask scheduler, such as tcp://10.0.0.1:8786.

    Raises:
        OptionError: for both at once, without the extra [dask], and when the scheduler does not answer.
    """
    count = check.count("workers", count, 1)
    if scheduler is not None:
        if count > 1:
            raise OptionError("workers are processes of this machine, and a scheduler has its own: give one of the two")
        with _cluster(scheduler) as cluster:
            yield cluster
    elif count == 1:
        yield ALONE
    else:
        with _processes(count) as processes:
            yield processes


def from_executor(executor: Executor) -> Workers:
    """Return `Workers` of any executor whose tasks may leave the process.

    Its workers have one thread each, and see the files of this machine or not: models are sent to them.
    """
    return Workers(executor, getattr(executor, "_max_workers", 4), threads=1, near=False)


def shards(count: int, workers: Workers, each: int = 2) -> list[range]:
    """Return contiguous parts of so many things, `each` per worker, as even as can be.

    >>> shards(5, Workers(Here(), count=1))
    [range(0, 3), range(3, 5)]
    """
    parts = [part for part in np.array_split(np.arange(count), each * workers.count) if len(part)]
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


# -- processes -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _processes(count: int) -> Iterator[Workers]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of ONNX Runtime half
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:

        def share(packed: bytes) -> Path:
            path = Path(scratch) / hashlib.sha256(packed).hexdigest()
            path.write_bytes(packed)
            return path

        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(count, context, _prepare)
        try:
            yield Workers(pool, count, max(1, _cores() // count), share=share)
        except BaseException:  # an interrupt does not wait for tasks that take minutes
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    """Let an interrupt of the terminal end only the process that waits for the workers: these end with it."""
    import signal  # noqa: PLC0415 - in workers alone

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End this worker when the process that started it has ended, however that was."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _dying() -> Iterator[None]:
    """Turn the death of a worker into an InputError."""
    try:
        yield
    except BrokenProcessPool:
        raise InputError(
            "a worker process died, as when memory is short: give fewer --workers; what is finished stays"
        ) from None


# -- a cluster -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[Workers]:
    with connected(scheduler) as cluster:
        yield Workers(
            cluster.executor, cluster.cores, threads=1, near=False, share=cluster.share, result=cluster.result
        )


# -- in a worker -----------------------------------------------------------------------------------------------

_LAST = threading.local()  # the job of the last task: a worker gets several tasks of one job


def _perform(function: Callable[[Any, Any], Any], key: str, shared: Any, task: Any, threads: int) -> Any:
    """Run a task in a worker."""
    if getattr(_LAST, "key", None) != key:
        packed = shared.read_bytes() if isinstance(shared, Path) else shared
        _LAST.key, _LAST.job = None, None  # two jobs need not fit into memory
        _LAST.key, _LAST.job = key, pickle.loads(packed)
    with one_blas_thread(), cores_limited(threads), threads_limited(threads):
        return function(_LAST.job, task)


@dataclass(frozen=True)
class Sent:
    """A model on its way to workers: by its file where they see it, by its bytes otherwise."""

    path: Path | None
    sha256: str
    folder: Path  # of its external data
    content: bytes | None
    inputs: tuple[
        Port, ...
    ] = ()  # as the graph takes them, see `graph.shapes.probe.settled`; none: as the file states them
    sizes: Mapping[str, int] = field(default_factory=dict)  # of dynamic dims, as the caller states them
    fits: tuple[FixedDims, ...] = ()  # sizes that fit, see `graph.model.Model`
    changes_io: bool = False  # whether its caches may become smaller, as the caller allows
    handed_on: frozenset[str] = frozenset()  # inputs and outputs that are caches for other files of its network

    def open(self) -> Model:
        """Return the model.

        Raises:
            ModelError: when this worker cannot read its file, or reads another one there.
        """
        model = self._read()
        inputs = self.inputs or model.inputs
        return replace(
            model, inputs=inputs, sizes=self.sizes, fits=self.fits, changes_io=self.changes_io, handed_on=self.handed_on
        )

    def _read(self) -> Model:
        if self.content is not None:
            return parse(self.content, self.folder)
        assert self.path is not None
        here = f"the worker on {socket.gethostname()}"
        try:
            model = load(self.path)
        except ModelError as error:
            raise ModelError(
                f"{here} cannot read the model, which has external data and goes by its path: put it on storage that "
                f"all workers see ({error})"
            ) from None
        if model.sha256() != self.sha256:
            raise ModelError(f"{here} reads another model at {self.path}, or it has changed meanwhile")
        return model


def sent(model: Model, workers: Workers) -> Sent:
    """Return a model in the form in which workers get it.

    Raises:
        OptionError: for one in memory that is too large to be sent.
    """
    path = None if model.path is None else model.path.resolve()
    stated: dict[str, Any] = {
        "inputs": model.inputs,
        "sizes": model.sizes,
        "fits": model.fits,
        "changes_io": model.changes_io,
        "handed_on": model.handed_on,
    }
    if path is not None and path.exists() and (workers.near or model.is_external):
        return Sent(path, model.sha256(), model.folder.resolve(), None, **stated)
    proto = model.original or model.proto
    if not fits_one_message(proto):
        raise OptionError(
            "workers cannot be sent a model of more than 2 GiB: save it with external data, on storage that they see"
        )
    return Sent(None, "", model.folder.resolve(), serialize(proto), **stated)
