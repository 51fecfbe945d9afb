"""The machine that latencies are measured on: usable cores, processor, vector instructions, ONNX Runtime."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxprune.runtime.session import PROVIDERS


def affinity() -> tuple[int, ...] | None:
    """Return the logical cores that this process may run on; None where the system does not report them."""
    allowed = getattr(os, "sched_getaffinity", None)
    return None if allowed is None else tuple(sorted(allowed(0)))


def machine() -> dict[str, Any]:
    """Return what latencies depend on: processor, logical cores, onnxruntime's version, its providers."""
    available = ort.get_available_providers()
    return {
        "cpu": _cpu_name(),
        "logical_cores": os.cpu_count(),
        "onnxruntime": ort.__version__,
        "providers": [short for short, (full, _) in PROVIDERS.items() if full in available],
    }


_KINDS = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}  # widest first


def cpu_features() -> tuple[str, ...]:
    """Return the feature flags of the processor, such as avx2, sorted; empty where the system does not list them."""
    return _features(_cpu_info())


def _features(about: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted((about.get("flags") or about.get("Features") or "").split()))


def _cpu_info() -> dict[str, str]:
    """Return the fields of /proc/cpuinfo for the first core; empty where there is no such file."""
    with contextlib.suppress(OSError):
        lines = re.findall(r"^([^\n:]+?)\s*:[ ]?(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return {key: value.strip() for key, value in reversed(lines)}
    return {}


def _cpu_name() -> str:
    """Return the name of the processor, with family, model and vectors: a virtual machine may hide the name."""
    about = _cpu_info()
    name = about.get("model name") or _brand() or platform.processor() or platform.machine()
    kind = " ".join(f"{word} {about[key]}" for key, word in _KINDS.items() if key in about)
    vectors = next((label for flag, label in _VECTORS.items() if flag in _features(about)), "")
    more = ", ".join(each for each in (kind, vectors) if each)
    return f"{name} ({more})" if more else name


def _brand() -> str:
    """Return the name that macOS gives the processor; empty on other systems."""
    if sys.platform != "darwin":
        return ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""
