"""A plan as the TOML that people edit, and what ``onnxprune plan`` prints of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxprune._version import __version__
from onnxprune.report.toml import comment_lines, toml_lines
from onnxprune.report.words import all_printable, count_text, new_table, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.planning.plan_file import CutPlan

_HEAD = """A plan of onnxprune: what is to be cut of a model. Nothing is cut yet.
Edit it, then: onnxprune apply PLAN MODEL -o OUTPUT
In a [[group]], change keep and take kept out: the most important units stay. Or list in kept which ones do.
Take a [[group]] or a [[branch]] out: it stays whole."""
_COMMENTS = {
    "input": "The file that the plan was made for. It may be applied to other forms of the same network.",
    "expected": "Of all cuts together, over what the input has. loss: of the output, by the loss curves of the groups.",
    "recipe": "What makes this plan again.",
    "branch": "Branches that go as a whole, and what goes with them.",
    "group": "saves_macs and saves_params: by the cut of this group alone.",
}


def plan_toml(plan: CutPlan) -> str:
    """Return a plan as TOML with comments; `planning.plan_file.read_plan` reads it."""
    values = plan.to_dict()
    lines = [*comment_lines(_HEAD), f"plan = {values.pop('plan')}", *toml_lines({"onnxprune": __version__})]
    lines += toml_lines({key: values.pop(key) for key in ("change-io",) if key in values})
    for name, value in values.items():
        if not value:
            continue
        lines += ["", *comment_lines(_COMMENTS[name])]
        if isinstance(value, Mapping):
            lines += [f"[{name}]", *toml_lines(value)]
        else:
            for number, each in enumerate(value):
                lines += [*[""] * bool(number), f"[[{name}]]", *toml_lines(each)]
    return "\n".join(lines) + "\n"


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


_KINDS = {"params": "parameters", "macs": "MACs", "size": "bytes", "latency": "latency", "memory": "memory"}
