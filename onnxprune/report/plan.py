"""What ``onnxprune plan`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.report.words import all_printable, count_text, new_table, plural

if TYPE_CHECKING:
    from rich.console import RenderableType


def plan_tables(plan: Mapping[str, Any], path: str | None) -> list[RenderableType]:
    """Return what the command line prints of a plan in plain values, and where it was written."""
    values = all_printable(plan)
    table = new_table("group", "kind", "units", "keep", "saves MACs", "saves parameters", "loss")
    for each in values["group"]:
        costs = [_count(each.get(name)) for name in ("saves_macs", "saves_params")]
        loss = each.get("loss")
        counts = f"{each['units']:,}", f"{each['keep']:,}"
        table.add_row(each["name"], each["kind"], *counts, *costs, "-" if loss is None else f"{loss:.3g}")
    branches = [f"branch {each['name']} goes" for each in values["branch"]]
    return [*[table] * bool(values["group"]), *branches, _verdict(values, path)]


def _count(value: int | None) -> str:
    return "-" if value is None else count_text(value)


def _verdict(values: Mapping[str, Any], path: str | None) -> str:
    expected = values["expected"]
    costs = [f"{expected[kind]:.3f} of the {words}" for kind, words in _KINDS.items() if kind in expected]
    cut = sum(each["keep"] < each["units"] for each in values["group"])
    what = f"{cut} of {plural(len(values['group']), 'group')} to cut"
    where = "no file was written" if path is None else path
    return f"{where}: {what}, expected are {', '.join(costs)}"


_KINDS = {
    "params": "parameters", "macs": "MACs", "size": "bytes", "kv-cache": "cache of a token", "latency": "latency",
    "memory": "memory",
}  # fmt: skip
