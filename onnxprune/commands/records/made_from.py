"""What a result was made from, as plain values: what lies in a folder is gone on from where they are the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune._version import __version__
from onnxprune.data.samples import files_of
from onnxprune.graph.files.publish import stamps
from onnxprune.graph.model import Model
from onnxprune.planning.options import Options
from onnxprune.runtime.machine import machine


def sources(model: Model, options: Options, data: Any) -> dict[str, Any]:
    """Return what the model and the samples are, and what read them."""
    return {
        "onnxprune": __version__,
        "input": model.sha256(),
        "weights": [list(stamp[1:]) for stamp in stamps(sorted(model.data_files)).values()],
        "data": [_fingerprint(data), _fingerprint(options.eval_data)],
    }


def effective(options: Options, has_data: bool) -> dict[str, Any]:
    """Return the options that have an effect on a result, as plain values, and the machine where it has one."""
    idle: set[str] = set() if options.is_measured else {"profile_seconds"}
    timed = options.latency or options.is_measured
    if not timed:  # outputs are compared on the provider
        idle |= {"threads", "batch"} | (set() if has_data or options.eval_data is not None else {"provider"})
    if not options.spends_effort(has_data):
        idle.add("effort")
    plain = json.loads(json.dumps(options.to_dict(), default=str))
    if options.vocabulary is not None:  # reports have how many there are
        plain["vocabulary"] = hashlib.sha256(repr(options.vocabulary).encode()).hexdigest()
    effective = {f"option {name}": value for name, value in plain.items() if name not in idle}
    return {**effective, **({"machine": machine()} if timed else {})}


def _fingerprint(source: Any) -> Any:
    """Return plain values that differ when samples do; for iterators, which can be read but once, always new ones."""
    if source is None:
        return None
    paths = sorted(files_of(source))
    if paths:
        return [str(source), *([str(path), *stamp[1:]] for path, stamp in stamps(paths).items())]
    if isinstance(source, (list, tuple)) and source:  # of feeds
        feeds = json.dumps([_fingerprint(each) for each in source])
        return hashlib.sha256(feeds.encode()).hexdigest()
    arrays = source if isinstance(source, Mapping) else {"": source}
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return f"{type(source).__name__} {time.time_ns()}"
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
