"""Plans as values: what is to be cut of a model, and what that is expected to cost; as TOML.

A plan is written by `onnxprune plan`, edited by people, and applied to a model.
"""

from __future__ import annotations

import glob
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune import check
from onnxprune._version import __version__
from onnxprune.data.toml_file import comment_lines, read_toml, toml_lines
from onnxprune.errors import OptionError
from onnxprune.graph.files.publish import Reads, check_written, staging
from onnxprune.planning.planned import PlannedGroup, as_ranges, from_ranges

FORMAT = 1  # of plan files; one that is larger was written by a later version
_TOP = ("plan", "onnxprune", "change-io", "input", "expected", "recipe", "group", "branch")
_GROUP = ("name", "kind", "units", "keep", "kept", "makers", "saves_macs", "saves_params", "loss")
_BRANCH = ("name", "macs", "params")
_TABLES = ("input", "expected", "recipe")
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


@dataclass(frozen=True, slots=True)
class PlannedBranch:
    """A branch that goes as a whole."""

    name: str
    macs: int | None = None  # of one sample, that go with it
    params: int | None = None


@dataclass(frozen=True)
class CutPlan:
    """What is to be cut of a model: values, which can be saved, edited, and applied."""

    groups: tuple[PlannedGroup, ...]
    branches: tuple[PlannedBranch, ...] = ()
    change_io: bool = False  # whether it cuts caches, which are inputs and outputs
    input: Mapping[str, Any] = field(default_factory=dict)  # path, sha256, params, macs, size_bytes of the file
    expected: Mapping[str, Any] = field(default_factory=dict)  # costs of the result over those of the input, and loss
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what makes the same plan again

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as the file has them; what is not known is left out."""
        groups = [{**asdict(each), "kept": _listed(each), "makers": list(each.makers)} for each in self.groups]
        values: dict[str, Any] = {"plan": FORMAT}
        values |= {"change-io": True} if self.change_io else {}
        values |= {name: dict(getattr(self, name)) for name in _TABLES}
        values["branch"] = [_known(asdict(each)) for each in self.branches]
        values["group"] = [_known(each) for each in groups]
        return values

    def to_toml(self) -> str:
        """Return the plan as TOML with comments, which `read_plan` reads."""
        values = self.to_dict()
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

    def save(self, path: str | os.PathLike[str], force: bool = False) -> Path:
        """Write the plan as TOML, at once or not at all; return the path.

        Raises:
            InputError: when the file exists and `force` is not set, or its folder cannot be written.
        """
        target = Path(path)
        check_written([(target, "the plan")], Reads(), force)
        with staging(force) as files:
            files.add(target).write_text(self.to_toml(), encoding="utf-8")
        return target

    def options(self) -> dict[str, Any]:
        """Return the options of `prune` that make this cut and no other."""
        return {
            "planned": self.groups,
            "without": tuple(glob.escape(each.name) for each in self.branches),
            "change_io": self.change_io,
            "width": True,  # what the plan names is cut, also where an op mixes over it
            "ratio": 0.0,
        }


AsPlan: TypeAlias = CutPlan | Mapping[str, Any] | str | os.PathLike[str]


def _listed(group: PlannedGroup) -> str | None:
    """Return the kept indices as text; None where importance decides, or all are kept.

    What is no index, in a plan that was edited in Python, is returned as text that `make_plan` refuses.
    """
    if group.kept is None or (not group.is_cut and len(group.kept) == group.units):
        return None
    are_indices = not isinstance(group.kept, str) and all(isinstance(each, numbers.Integral) for each in group.kept)
    return as_ranges(group.kept) if are_indices else str(group.kept)


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def read_plan(source: AsPlan) -> CutPlan:
    """Return the plan of a file, of plain values, or the plan itself, checked: it may have been edited.

    Raises:
        InputError: for a file that cannot be read or is no TOML.
        OptionError: for keys and values that are no plan; says which.
    """
    if isinstance(source, CutPlan):
        return make_plan(source.to_dict(), "the plan")
    if isinstance(source, Mapping):
        return make_plan(source, "the plan")
    return make_plan(read_toml(Path(source)), str(source))


def make_plan(values: Mapping[str, Any], where: str) -> CutPlan:
    """Return a plan from plain values; `where` they stand is named in messages.

    Raises:
        OptionError: for keys and values that are no plan; says which.
    """
    check.keys(where, values, _TOP)
    number = values.get("plan")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= FORMAT:
        raise OptionError(f"{where}: plan = {number!r}: no plan of this version, which writes plan = {FORMAT}")
    tables = {name: _table(where, name, values.get(name, {})) for name in _TABLES}
    groups = [_group(where, place, each) for place, each in enumerate(_tables(where, "group", values), 1)]
    branches = [_branch(where, place, each) for place, each in enumerate(_tables(where, "branch", values), 1)]
    _check_once(where, [each.name for each in groups])
    if not groups and not branches:
        raise OptionError(f"{where}: has no [[group]] and no [[branch]]: nothing would be cut")
    change_io = check.flag(f"{where}: change-io", values.get("change-io", False))
    return CutPlan(tuple(groups), tuple(branches), change_io, **tables)


def _table(where: str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{where}: {name} must be a table, got {value!r}")
    return value


def _tables(where: str, name: str, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    tables = values.get(name, [])
    if not isinstance(tables, Sequence) or not all(isinstance(each, Mapping) for each in tables):
        raise OptionError(f"{where}: {name} must be tables, each under [[{name}]]")
    return tables


def _group(where: str, place: int, values: Mapping[str, Any]) -> PlannedGroup:
    at = _place(where, "group", place, values, _GROUP)
    units = check.count(f"{at}: units", values.get("units"), 1)
    kept = _kept(at, values["kept"], units) if "kept" in values else None
    if kept is None and "keep" not in values:
        raise OptionError(f"{at}: say how many of its {units} units it shall keep, with keep or kept")
    keep = check.count(f"{at}: keep", values.get("keep", 0 if kept is None else len(kept)), 1)
    if keep > units:
        raise OptionError(f"{at}: keep = {keep}, but it has {units} units")
    if kept is not None and len(kept) != keep:
        raise OptionError(
            f"{at}: keep = {keep}, but kept lists {len(kept)} indices: change both, or take kept out, and the most "
            "important units stay"
        )
    if keep == units:
        kept = None  # all of them, however many that be: only the model bounds it
    makers = check.globs(f"{at}: makers", values.get("makers", ()))
    rest = {name: _number(at, name, values) for name in ("saves_macs", "saves_params", "loss")}
    return PlannedGroup(values["name"], str(values.get("kind", "units")), units, keep, kept, makers, **rest)


def _kept(at: str, value: Any, units: int) -> tuple[int, ...]:
    """Return indices from text such as "0-11,14", or from a list."""
    if not isinstance(value, str) and isinstance(value, Sequence):
        value = ",".join(map(str, value))
    try:
        return from_ranges(value if isinstance(value, str) else repr(value), units)
    except ValueError as error:
        raise OptionError(f"{at}: kept: {error}") from None


def _branch(where: str, place: int, values: Mapping[str, Any]) -> PlannedBranch:
    at = _place(where, "branch", place, values, _BRANCH)
    return PlannedBranch(values["name"], _number(at, "macs", values), _number(at, "params", values))


def _number(at: str, name: str, values: Mapping[str, Any]) -> Any:
    """Return a number that may be left out."""
    if values.get(name) is not None:
        check.number(f"{at}: {name}", values[name])
    return values.get(name)


def _place(where: str, table: str, place: int, values: Mapping[str, Any], known: Sequence[str]) -> str:
    """Return in words which table of a plan it is, and check its keys."""
    name = values.get("name")
    at = f"{where}: {table} {place if name is None else repr(name)}"
    check.keys(at, values, known)
    if not isinstance(name, str) or not name:
        raise OptionError(f"{at}: needs the name of a {table}, got {name!r}")
    return at


def _check_once(where: str, names: Sequence[str]) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise OptionError(f"{where}: has two tables for group {name!r}: take one out")
        seen.add(name)
