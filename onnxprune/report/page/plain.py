"""Reports as a reader takes them: a field that is missing is null, a list that is missing is empty."""

from __future__ import annotations

import math
from typing import Any

_EMPTY: dict[str, Any] = {  # of a report and of the files in it
    "groups": (), "nodes": (), "latency": (), "reconstruction": (), "ports": (), "not_run": (), "warnings": (),
    "without_model": (), "runs": (), "sweep": (), "missed": (), "settings": (), "curves": {},
}  # fmt: skip


class Fields(dict[str, Any]):
    """A dict of a report: what it lacks is None, or empty where it would be a list."""

    def __missing__(self, key: str) -> Any:
        """Return what stands for a field that is missing."""
        return _EMPTY.get(key)


def as_read(value: Any) -> Any:
    """Return plain values whose dicts are `Fields`; numbers that are not finite are unknown.

    >>> as_read({"loss": float("nan"), "at": [1]}), as_read({})["runs"], as_read({})["depth"]
    ({'loss': None, 'at': [1]}, (), None)
    """
    if isinstance(value, dict):
        return Fields({key: as_read(each) for key, each in value.items()})
    if isinstance(value, (list, tuple)):
        return [as_read(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
