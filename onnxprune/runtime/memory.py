"""Memory: the peak that running a model adds to a fresh process, and what this process may still take.

Run as ``python -m onnxprune.runtime.memory REQUEST`` it is the fresh process in which `peak_memory_bytes` measures.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxprune.graph.tensors import Array
from onnxprune.runtime.helper import child_environment
from onnxprune.runtime.session import open_session
from onnxprune.runtime.trial import first_setting, limited_to


def peak_memory_bytes(
    source: Path | bytes,
    feeds: Mapping[str, Array],
    *,
    provider: str = "cpu",
    threads: int = 0,
    folder: Path | None = None,
    timeout_s: float = 120.0,
) -> int | None:
    """Return the host memory that loading and running a model adds to a fresh process, at its highest.

    The model has no more optimisation there than sessions have here, see `trial.limited_to`.

    None where it cannot be measured: no `resource` module (Windows), a failure, or `timeout_s` is over.

    Args:
        source: the file, or a serialized model.
        feeds: one array per input.
        provider: short name, see `PROVIDERS`.
        threads: as for `open_session`.
        folder: where the external data of a model in bytes lies.
        timeout_s: after which the process is ended.
    """
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as name:
        path = source if isinstance(source, Path) else Path(name) / "model.onnx"
        if isinstance(source, bytes):
            path.write_bytes(source)
        request = Path(name) / "request"
        request.write_bytes(pickle.dumps((path.resolve(), dict(feeds), provider, threads, folder, first_setting())))
        command = [sys.executable, "-P", "-m", "onnxprune.runtime.memory", str(request)]
        try:
            done = subprocess.run(
                command, capture_output=True, env=child_environment(), timeout=timeout_s, check=True, text=True
            )
            return int(done.stdout.split()[-1])
        except (subprocess.SubprocessError, OSError, ValueError, IndexError):
            return None


def _measure(request: Path) -> int:
    """Return the growth of this process's peak memory over loading and running the model of a request."""
    path, feeds, provider, threads, folder, first = pickle.loads(request.read_bytes())
    model: Path | bytes = path if folder is None else path.read_bytes()
    before = _resident_bytes()
    with limited_to(first):
        session = open_session(model, provider=provider, threads=threads, folder=folder)
    feeds = session.taken(feeds)
    for _ in range(2):  # the first run plans the memory, the second takes it in one piece
        session.run(feeds)
    return max(0, peak_resident_bytes() - before)


def _resident_bytes() -> int:
    """Return the memory of this process now, and forget its peak where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS") or _rusage_bytes()


def peak_resident_bytes() -> int:
    """Return the largest memory that this process has held so far, in bytes."""
    # Not getrusage on Linux: a child inherits the peak of the process that started it, however large.
    return _status_bytes("VmHWM") or _rusage_bytes()


def _status_bytes(key: str) -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(match[1]) * 1024 if match else None
    return None


def _rusage_bytes() -> int:
    import resource  # noqa: PLC0415 - Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory_bytes() -> int | None:
    """Return the memory that this process may still take; None where the system does not report it."""
    free = _number_in(Path("/proc/meminfo"), r"^MemAvailable:\s+(\d+) kB")
    limit = _number_in(Path("/sys/fs/cgroup/memory.max"), r"^(\d+)$")
    used = _number_in(Path("/sys/fs/cgroup/memory.current"), r"^(\d+)$")
    left = [] if free is None else [1024 * free]
    return min([*left, *([max(0, limit - used)] if limit is not None and used is not None else [])], default=None)


def _number_in(path: Path, pattern: str) -> int | None:
    with contextlib.suppress(OSError):
        match = re.search(pattern, path.read_text(), re.MULTILINE)
        return int(match[1]) if match else None
    return None


if __name__ == "__main__":
    print(_measure(Path(sys.argv[1])))
