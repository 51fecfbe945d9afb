"""A Dask cluster as workers: whether it is one, is of one kind with this machine, and is still there.

Dask waits, and logs, where a run has to end: a scheduler that is silent or gone, and a cluster without workers, are
noticed here within seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import onnxruntime as ort

from onnxprune._version import __version__
from onnxprune.errors import InputError, OnnxpruneError, OptionError, said

CONNECT_S = 4.0  # until a scheduler that does not answer counts as not there
LOST_S = 5.0  # until one that answered before, or its last worker, counts as gone
RETRIES = 2  # of a task that fails for reasons of the cluster
_IMPORT_S = 20.0  # until workers that have to import packages first have told their releases
_LOOK_S = 1.0  # between two looks at the cluster while a result is waited for
_LOGGERS = ("distributed", "tornado", "asyncio", "bokeh")


class Cluster:
    """A connection to a scheduler; made by `connected`."""

    def __init__(self, client: Any, address: str, cores: int) -> None:
        """Take a client that is connected.

        Args:
            client: the `distributed.Client`.
            address: of the scheduler.
            cores: tasks that run at the same time.
        """
        self._client, self._address, self.cores = client, address, cores
        self.executor = client.get_executor(pure=False, retries=RETRIES)

    def share(self, packed: bytes) -> Any:
        """Send bytes that all tasks share; the scheduler keeps them, so that no worker is missed."""
        with warnings.catch_warnings(), self._losing():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            return self._client.submit(bytes, packed, pure=False, retries=RETRIES)

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a task, as long as there is anybody who works on it.

        Raises:
            InputError: when the scheduler or all workers are gone; and whatever the task raises.
        """
        seen = time.monotonic()
        while True:
            with self._losing(), contextlib.suppress(TimeoutError):
                return future.result(_LOOK_S)
            if future.done():  # the TimeoutError is the task's own
                return future.result()
            if self._has_workers():
                seen = time.monotonic()
            elif time.monotonic() - seen > LOST_S:
                raise self._lost()

    def _has_workers(self) -> bool:
        try:
            return bool(self._client.sync(self._client.scheduler.ncores, callback_timeout=_LOOK_S))
        except Exception:  # whatever a connection raises that is no more
            return False

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        """Turn what Dask raises where tasks are lost into an InputError."""
        try:
            yield
        except (OnnxpruneError, TimeoutError):
            raise
        except Exception as error:
            module = type(error).__module__.partition(".")[0]
            if type(error).__name__ == "KilledWorker":
                raise InputError(
                    f"scheduler {self._address}: the workers of a task died again and again, as when memory is short: "
                    "give them more, or fewer samples; what is finished stays"
                ) from None
            if module in ("distributed", "concurrent", "asyncio", "tornado"):
                raise self._lost() from None
            raise

    def _lost(self) -> InputError:
        return InputError(
            f"scheduler {self._address}: it, or its last worker, is gone; start it again and run the same command: "
            "what is finished stays"
        )


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Yield the cluster of a scheduler; what Dask logs meanwhile is not shown.

    Raises:
        OptionError: without the extra [dask], when no scheduler answers there, it has no workers, or they have other
            releases of what numbers depend on.
    """
    try:
        import distributed  # noqa: PLC0415 - an extra
    except ImportError:
        raise OptionError("scheduler needs Dask: pip install 'onnxprune[dask]'") from None
    with _silenced():
        _check(address, distributed)
        client = _client(address, distributed)
        try:
            cores = client.sync(client.scheduler.ncores, callback_timeout=CONNECT_S)
            _check_releases(address, client)
            yield Cluster(client, address, sum(cores.values()))
        finally:
            with contextlib.suppress(Exception):  # it may be gone
                client.close(timeout=_LOOK_S)


def _check(address: str, distributed: Any) -> None:
    """Raise OptionError unless a scheduler with workers answers at an address, within `CONNECT_S`."""

    async def ask() -> Mapping[str, Any]:
        async with distributed.rpc(address, timeout=CONNECT_S) as scheduler:
            answer: Mapping[str, Any] = await scheduler.identity()
            return answer

    identity = _within(lambda: asyncio.run(ask()), address, CONNECT_S)
    kind = identity.get("type") if isinstance(identity, Mapping) else None
    if kind != "Scheduler":
        raise OptionError(f"scheduler {address} is no scheduler of Dask, but a {kind or 'stranger'}")
    if not identity.get("workers"):
        raise OptionError(f"scheduler {address} has no workers: start some with 'dask worker {address}'")


def _client(address: str, distributed: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # releases are compared here
        return _within(lambda: distributed.Client(address, timeout=CONNECT_S, set_as_default=False), address, CONNECT_S)


def _within(call: Callable[[], Any], address: str, seconds: float) -> Any:
    """Return what a call returns, in a thread that is left behind where it does not.

    Raises:
        OptionError: when it takes longer, or raises.
    """
    outcome: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # whatever addresses and strangers make of the network code
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if outcome:
        return outcome[0]
    no_answer = not errors or isinstance(errors[0], TimeoutError)
    reason = "no answer" if no_answer else said(errors[0]).partition(": ")[2] or said(errors[0])
    raise OptionError(f"scheduler {address} cannot be reached within {seconds:g} s: {reason}") from None


# -- releases ------------------------------------------------------------------------------------------------


def releases() -> dict[str, str]:
    """Return the releases that numbers and pickled tasks depend on."""
    python = platform.python_version().rpartition(".")[0]
    return {"python": python, "onnxprune": __version__, "numpy": np.__version__, "onnxruntime": ort.__version__}


def _check_releases(address: str, client: Any) -> None:
    """Raise OptionError where a worker lacks the package, or has other releases than this process."""
    here = releases()
    answers = _within(lambda: client.run(releases, on_error="return"), address, _IMPORT_S)
    for worker, there in answers.items():
        if not isinstance(there, dict):
            text = f"worker {worker} cannot run tasks: {said(there)}; install onnxprune {__version__} there"
            raise OptionError(f"scheduler {address}: {text}")
        other = [f"{name} {there.get(name)} ({here[name]} here)" for name in here if there.get(name) != here[name]]
        if other:
            raise OptionError(
                f"scheduler {address}: worker {worker} has {', '.join(other)}; members would depend on where they are "
                "made: install the same releases"
            )


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep what Dask and its event loop log from the terminal: what matters is raised."""
    known = logging.Logger.manager.loggerDict
    names = [*_LOGGERS, *(name for name in known if name.startswith(tuple(f"{each}." for each in _LOGGERS)))]
    before = {name: logging.getLogger(name).disabled for name in names}
    for name in names:
        logging.getLogger(name).disabled = True
    try:
        yield
    finally:
        for name, disabled in before.items():
            logging.getLogger(name).disabled = disabled
