"""What may differ between two runs of one checkout, and is taken out: times, versions, paths."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

TIMED = "(timed)"
TIMED_KEYS = (
    "before_ms", "after_ms", "before_per_s", "after_per_s", "median_ms", "p95_ms", "quantiles_ms", "creation_ms",
    "peak_memory_bytes", "speedup", "speedup_interval", "p95_speedup", "p95_speedup_interval", "within_noise",
    "affinity", "seconds",
)  # fmt: skip
_TIMED_VALUE = re.compile(rf'"({"|".join(TIMED_KEYS)})": (?!null)(\[[^\[\]]*\]|[^\s,{{}}\[\]]+)')
_ALWAYS: tuple[tuple[str, str], ...] = (  # in every text
    (r'("onnxprune"): "[^"]*"', r'\1: "(version)"'),
    (r"(?m)^(onnxprune, version) .*$", r"\1 (version)"),
    (r'("runs"): \d+', rf'\1: "{TIMED}"'),
    (r"the speedup is .*?, asked for", f"the speedup is {TIMED}, asked for"),
    (r'("report_sha256"): "\w+"', r'\1: "(of a file that is compared itself)"'),
    (r'("key"): "\w{64}"', r'\1: "(of what it is made from)"'),
    (r"(?m)^\d{4}-\d\d-\d\d [\d:.]+ \[([A-Z]):onnxruntime:[^\]]*\] ", r"\1 "),  # a line of its log
    (r"(?m)^\S+\.py:\d+: (\w*Warning: .*)\n .*$", r"\1"),  # where it was raised may change
    (r"<td>[\d.]+</td>(<td>[^<]*\.onnx</td></tr>)", rf"<td>{TIMED}</td>\1"),  # seconds, in the page of a sweep
)
_IN_TABLES: tuple[tuple[str, str], ...] = (  # in what compare and sweep print; spaces depend on the width of figures
    (r"[ \t]+", " "),
    (r"(?m) $", ""),
    (r"─+", "─"),
    (r"(?m)^(latency, \w+|session creation|peak memory) .*$", rf"\1 {TIMED}"),
    (r"(?m)^(\w+ \d+(?: -> \d+)?) [\d.]+ ms .*$", rf"\1 {TIMED}"),  # a type of node
    (r"(?m)^nodes add up to .*$", f"nodes add up to {TIMED}"),
    (r"(?m)^((?:\d+|all) \d+) [\d,.]+/s .*$", rf"\1 {TIMED}"),  # threads and batch
    (r"(?m)^may run on .*$", f"may run on {TIMED}"),
    (r"(?m)^speed-up .*? on (.*), \d+ runs each.*$", rf"speed-up {TIMED} on \1"),
    (r"(?m)^(\S+ [\d.]+x [\d.]+x .*) \d+\.\d$", rf"\1 {TIMED}"),  # seconds, in the table of a sweep
)


def neutral(text: str, command: str, folders: Mapping[str, str]) -> str:
    """Return a text without what differs from run to run.

    Args:
        text: that a command has printed or written.
        command: of the step, or "" for a file.
        folders: paths of this run, and what stands for them.
    """
    for path, name in folders.items():
        text = text.replace(path, name)
    text = _TIMED_VALUE.sub(rf'"\1": "{TIMED}"', text)
    for pattern, meant in _ALWAYS:
        text = re.sub(pattern, meant, text)
    if '"nodes_before"' in text:
        return _with_ops_by_name(text)
    if command in ("compare", "sweep") and parsed(text) is None:
        for pattern, meant in _IN_TABLES:
            text = re.sub(pattern, meant, text)
        text = _sorted_ops(text)
    return text


def _with_ops_by_name(text: str) -> str:
    """Return the report of a comparison with its types of nodes in another order than that of their times."""
    report = parsed(text)
    for each in (report or {}).get("comparisons", [report or {}]):
        each.get("ops", []).sort(key=lambda op: op["op"])
    return text if report is None else json.dumps(report, indent=1)


def _sorted_ops(text: str) -> str:
    """Return a printed comparison with its types of nodes in another order than that of their times."""

    def is_op(line: str) -> bool:
        return bool(re.match(rf"\w+ \d.* {re.escape(TIMED)}$", line))

    groups = [(of_ops, list(group)) for of_ops, group in itertools.groupby(text.split("\n"), is_op)]
    return "\n".join(line for of_ops, group in groups for line in (sorted(group) if of_ops else group))


def words_of(drawing: str) -> str:
    """Return the words of a chart whose lines and numbers are times."""
    texts = re.findall(">([^<>]+)<", drawing)
    words = {re.sub(r"[\d.,]+(e[+-]?\d+)?|\(within noise\)|within noise", "", text).strip() for text in texts}
    return "\n".join(sorted(words - {""}))


def parsed(text: str) -> Any:
    """Return what a text holds as JSON, None where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None
