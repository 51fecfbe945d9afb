"""Times of single nodes at some sizes, measured in ONNX Runtime and kept in a table.

Many nodes are put side by side into one model, and ONNX Runtime's own profile has the time of each: layouts are
converted outside of them, weights come from memory as they do in a network, and a thousand shapes take seconds. Other
providers than the CPU give no such times: there each node is timed as a model of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import platformdirs

from onnxprune.errors import ModelError
from onnxprune.graph.forms.parts import Operand, Stand, side_by_side
from onnxprune.graph.tensors import Array
from onnxprune.latency.times_file import add_times, read_times
from onnxprune.progress import Progress, silent
from onnxprune.runtime.machine import affinity, cpu_features, machine
from onnxprune.runtime.session import open_session
from onnxprune.runtime.timing import NodeTime, node_times, time_interleaved

BATCH_BYTES = 2**28  # of tensors that are held for the nodes of one model
MOST = 200  # nodes in one model
ROUNDS = 7
_ALONE_S = 0.05  # timed runs of a node on a provider that gives no profile
FORMAT = 1  # of the table; changes when times are measured in another way
CACHE = "ONNXPRUNE_CACHE"  # environment variable that names another folder


@dataclass(frozen=True, slots=True)
class Kernel:
    """A node at some sizes, which determine its time."""

    stand: Stand

    @property
    def key(self) -> str:
        """The key in the table, equal for nodes that take the same time."""
        node = hashlib.sha256(self.stand.node).hexdigest()[:16]
        opsets = ",".join(f"{domain}{version}" for domain, version in self.stand.opsets)
        operands = " ".join(_operand_key(operand) for operand in self.stand.operands)
        return f"{self.stand.op}:{node}:{opsets} {operands}".replace(", ", ",")


def _operand_key(operand: Operand | None) -> str:
    if operand is None:
        return "-"
    mark = f"={operand.mark}" if operand.mark else ""
    return f"{operand.dtype}{list(operand.shape)}{'c' if operand.is_constant else ''}{mark}"


class Tables:
    """Times by kernel on one machine, for one provider and number of threads; kept in a file of the user's cache."""

    def __init__(self, provider: str = "cpu", threads: int = 1, path: Path | None = None) -> None:
        """Read the times that were measured before.

        Args:
            provider: short name, see `runtime.session.PROVIDERS`.
            threads: on the CPU, 0 is ONNX Runtime's choice.
            path: of the file; by default it is named after the machine, in the cache folder of the user.
        """
        self._provider, self._threads = provider, threads
        self._path = path or cache_file(provider, threads)
        self._ms: dict[str, float | None] = dict(read_times(self._path))
        self.measured = 0  # kernels measured by this object

    def __contains__(self, kernel: Kernel) -> bool:
        return kernel.key in self._ms

    def ms(self, kernel: Kernel) -> float | None:
        """Return the time of a kernel, None where it has not been measured or does not run alone."""
        return self._ms.get(kernel.key)

    def number(self, key: str) -> float | None:
        """Return another number that was kept, None where there is none."""
        return self._ms.get(key)

    def keep(self, numbers: Mapping[str, float]) -> None:
        """Keep other numbers, by keys that no kernel has."""
        self._ms.update(numbers)
        add_times(self._path, numbers)

    def measure(self, kernels: Sequence[Kernel], *, until: float, progress: Progress = silent) -> bool:
        """Measure the kernels that are not in the table, in order; return whether there was time for all.

        Args:
            kernels: the most important first.
            until: `time.monotonic` after which no more is begun.
            progress: called before each step.
        """
        missing = list({kernel.key: kernel for kernel in kernels if kernel not in self}.values())
        done, whole = 0, True
        for batch in _batches(missing):
            if time.monotonic() >= until:
                whole = False
                break
            progress("timing nodes", done + 1, len(missing))
            times = self._times(batch)
            self._ms.update(times)
            add_times(self._path, {key: ms for key, ms in times.items() if ms is not None})  # a failure may not last
            done += len(batch)
        self.measured += done
        return whole

    def _times(self, batch: Sequence[Kernel]) -> dict[str, float | None]:
        """Return the times of some kernels; None for each that does not run."""
        try:
            times_ms = self._profiled(batch) if self._provider == "cpu" else [self._timed(batch[0])]
        except ModelError:  # one of them does not run: find out which
            if len(batch) == 1:
                return {batch[0].key: None}
            half = len(batch) // 2
            return {**self._times(batch[:half]), **self._times(batch[half:])}
        rest = {} if len(times_ms) == len(batch) else self._times(batch[len(times_ms) :])
        return {**{kernel.key: ms for kernel, ms in zip(batch, times_ms, strict=False)}, **rest}

    def _profiled(self, batch: Sequence[Kernel]) -> list[float | None]:
        """Return the times of nodes side by side; one that ONNX Runtime decomposes is timed in a model of its own."""
        times_ms: dict[int, float] = {}
        for node in self._nodes(batch):
            number = re.match(r"k(\d+)", node.name)
            if number:
                times_ms[int(number[1])] = times_ms.get(int(number[1]), 0.0) + node.ms
        return [times_ms.get(number) or self._whole(kernel) for number, kernel in enumerate(batch)]

    def _whole(self, kernel: Kernel) -> float | None:
        """Return the time of all nodes that ONNX Runtime makes of a node, None where there are none."""
        with contextlib.suppress(ModelError):
            return sum(node.ms for node in self._nodes([kernel])) or None
        return None

    def _nodes(self, batch: Sequence[Kernel]) -> list[NodeTime]:
        proto, feeds = side_by_side([kernel.stand for kernel in batch], _random)
        return node_times(proto, feeds, threads=self._threads, rounds=ROUNDS, budget_s=5.0)

    def _timed(self, kernel: Kernel) -> float:
        proto, feeds = side_by_side([kernel.stand], _random)
        session = open_session(proto, provider=self._provider, threads=self._threads)
        (ms,) = time_interleaved([session.timed(feeds)], budget_s=_ALONE_S, min_rounds=5)
        return float(np.median(ms))


def cache_file(provider: str, threads: int) -> Path:
    """Return the file of times that were measured on this machine, in the cache folder of the user."""
    here = machine()
    where = len(affinity() or ()) if provider == "cpu" else _devices()
    about = json.dumps(
        [FORMAT, here["cpu"], cpu_features(), here["logical_cores"], here["onnxruntime"], provider, threads, where]
    )
    folder = os.environ.get(CACHE) or platformdirs.user_cache_dir("onnxprune", appauthor=False)
    if folder.startswith("~"):  # of a user without a home: no folder of this name shall appear in the current one
        folder = os.devnull
    name = f"{provider}-{threads}-{hashlib.sha256(about.encode()).hexdigest()[:12]}.json"
    return Path(folder) / "latency" / name


@cache
def _devices() -> str:
    """Return the names and driver of the GPUs, where nvidia-smi lists them, and which of them may be used."""
    command, names = ["nvidia-smi", "--query-gpu=index,name,driver_version", "--format=csv,noheader"], ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        names = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return f"{names} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"


def _batches(kernels: Sequence[Kernel]) -> Iterator[list[Kernel]]:
    """Yield the kernels in portions that fit into memory."""
    batch: list[Kernel] = []
    held = 0
    for kernel in kernels:
        if batch and (held + kernel.stand.bytes > BATCH_BYTES or len(batch) == MOST):
            yield batch
            batch, held = [], 0
        batch.append(kernel)
        held += kernel.stand.bytes
    if batch:
        yield batch


_POOL: Array = np.random.default_rng(0).standard_normal(2**16 + 1, np.float32) * 0.05


def _random(dtype: np.dtype[np.generic], shape: Sequence[int], number: int) -> Array:
    """Return numbers for an operand: ordinary floats, which differ from operand to operand; or equal integers.

    Those of 32 and 64 bits and booleans are 1, as in `runtime.random_feeds`: a length, a mask. Those of fewer
    bits are quantized numbers, whose zero points must be 0 for some nodes.
    """
    if "int" in dtype.name or dtype.kind == "b":
        return np.full(shape, dtype.kind == "b" or dtype.itemsize >= 4, dtype)
    start = number % len(_POOL)  # two operands of one model are never the same tensor
    return np.resize(np.roll(_POOL, start), shape).astype(dtype)
