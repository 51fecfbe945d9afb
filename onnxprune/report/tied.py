"""What the report and the command line say of weights that a file holds twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.graph.forms.tied import LEAST_BYTES, Twin
from onnxprune.report.words import size_text

_WORTH_TELLING = 0.01  # of the file


def tied_values(pairs: Sequence[Twin], *, is_wanted: bool) -> dict[str, Any]:
    """Return what the report says of twins: None is stored once where there is none, wanted or not."""
    each = [
        {"name": twin.name, "of": twin.of, "transposed": twin.is_transposed, "size_bytes": twin.size_bytes}
        for twin in pairs
    ]
    return {"stored_once": is_wanted and bool(pairs), "twins": each}


def tied_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line where weights are stored once, or could be and take space that is worth it; and where none can."""
    pairs = (report.get("tied") or {}).get("twins")
    if not pairs:
        if report.get("tied") and report["options"]["tie"]:
            yield f"no weight of {size_text(LEAST_BYTES)} or more is held twice: there was nothing to store once"
        return
    most, total = max(pairs, key=lambda pair: pair["size_bytes"]), sum(pair["size_bytes"] for pair in pairs)
    more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    what = f"{most['name']} holds what {most['of']} holds{', transposed' * most['transposed']}{more}"
    if report["tied"]["stored_once"]:
        yield f"{what}: stored once, which saves {size_text(total)} of the original"
    elif total >= _WORTH_TELLING * report["input"]["size_bytes"]:
        yield f"{what}: {size_text(total)} of the original are stored twice; --tie stores them once"
