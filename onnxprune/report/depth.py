"""What the report says of branches that went, and what is printed of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.report.document import finite, group_values, verification_values
from onnxprune.report.rounds import proofs
from onnxprune.report.words import by_reason, names_text, plural

if TYPE_CHECKING:
    from onnxprune.dependency.branches import Branch
    from onnxprune.dependency.groups import Group
    from onnxprune.evaluation.verify import Verification
    from onnxprune.planning.branches.depth import Shortening
    from onnxprune.planning.options import Options

_RANKING = ("criterion", "scope")  # options that say what ranked the units


@dataclass(frozen=True)
class Original:
    """What a report says of the model of a run, where another one that was made of it is cut."""

    source: Mapping[str, Any]  # of its file
    options: Options  # of the whole run
    verification: Verification  # the proof of what was made
    shares: Mapping[str, float]  # of the original that this has, by kind of target


def depth_values(
    options: Options, found: Sequence[Branch], choice: Shortening, reasons: Mapping[str, str], share: float
) -> dict[str, Any]:
    """Return what the report says of branches as plain values; see docs/report.md.

    Args:
        options: of the run.
        found: all branches of the model.
        choice: those of them that went.
        reasons: why branches could not go, by name.
        share: of the multiply-accumulates of all branches, that went.
    """
    removed = {branch.name for branch in choice.removed}
    return {
        "asked": options.depth,
        "without": list(options.without),
        "removed": share,
        "linear": [],
        "measured": choice.measured,
        "branches": [
            {
                "name": branch.name,
                "nodes": len(branch.nodes),
                "macs": branch.macs,
                "params": branch.params,
                "removed": branch.name in removed,
                "loss": finite(choice.alone.get(branch.name)),
                "score": finite(choice.scores.get(branch.name)),
                "into": choice.merged.get(branch.name),
                "locked": reasons.get(branch.name),
            }
            for branch in found
        ],
    }


def is_gone(group: Group, gone: set[str]) -> bool:
    """Whether all nodes of a group went with branches."""
    return bool(group.nodes) and gone.issuperset(group.nodes)


def of_whole(
    report: dict[str, Any],
    *,
    values: Mapping[str, Any],
    original: Original,
    groups: Sequence[Group],
    gone: set[str],
) -> None:
    """Let the report of a cut of a shorter model tell of the original.

    Args:
        report: is changed in place.
        values: of the branches.
        original: the shorter model was made of this.
        groups: of the original.
        gone: names of the nodes that went.
    """
    tell_of_original(report, original)
    report["depth"] = dict(values)
    report["groups"] += [group_values(group, (), None) for group in groups if is_gone(group, gone)]
    if report["rounds"] is not None:
        report["rounds"] = [_round_of_original(each, original.shares) for each in report["rounds"]]


def _round_of_original(values: Mapping[str, Any], shares: Mapping[str, float]) -> dict[str, Any]:
    """Return what a report says of a round in terms of the original, where it was in terms of a shorter model."""
    told = dict(values)
    for name in told.keys() & {"wanted", "reached"}:
        told[name] = {kind: cost * shares.get(kind, 1.0) for kind, cost in values[name].items()}
    return told


def of_bypassed(
    report: dict[str, Any], *, values: Mapping[str, Any], maps: Sequence[Mapping[str, Any]], original: Original
) -> None:
    """Let the report of a cut of a model with linear maps tell of the original.

    Args:
        report: is changed in place.
        values: of the branches, see `depth_values`.
        maps: of each linear map that was named or tried, what the report says of it.
        original: the model with maps of zeros was made of this, and is the same.
    """
    tell_of_original(report, original)
    report["depth"] = {**values, "linear": list(maps)}


def tell_of_original(report: dict[str, Any], original: Original) -> None:
    """Let what all reports have tell of the original, where a model that was made of it was cut.

    Args:
        report: is changed in place.
        original: what is told.
    """
    report["input"] = dict(original.source)
    tell_options(report, original.options)
    report["verification"] = proofs([verification_values(original.verification), report["verification"]])
    report["promise"] = of_original(report["promise"], original.options, original.shares)


def tell_options(report: dict[str, Any], options: Options) -> None:
    """Let a report have the options of the whole run, and still say what ranked the units, where masks did.

    Args:
        report: of a cut of a model that was made of the original; is changed in place.
        options: of the whole run.
    """
    ranked = {} if report["masks"] is None else {name: report["options"][name] for name in _RANKING}
    report["options"] = {**options.to_dict(), **ranked}


def of_original(
    promise: Mapping[str, Any] | None, options: Options, shares: Mapping[str, float]
) -> dict[str, Any] | None:
    """Return what was promised in terms of the original, where it was in terms of a shorter model.

    Args:
        promise: see `planning.promise.Decision.report_values`.
        options: of the whole run.
        shares: of the original that were left without branches, by kind of target.
    """
    if promise is None:
        return None
    asked = {target.kind: target for target in options.bounds}

    def scaled(costs: Mapping[str, float]) -> dict[str, float]:
        return {kind: cost * shares.get(kind, 1.0) for kind, cost in costs.items()}

    targets = []
    for each in promise["targets"]:
        kind = each["target"].partition("=")[0]
        costs = {name: each[name] for name in ("fraction", "predicted", "measured")}
        known = {name: None if cost is None else cost * shares.get(kind, 1.0) for name, cost in costs.items()}
        targets.append({**each, **known, "target": str(asked[kind])})
    attempts = [
        {**each, "predicted": scaled(each["predicted"]), "measured": scaled(each["measured"])}
        for each in promise["attempts"]
    ]
    return {**promise, "targets": targets, "attempts": attempts}


def depth_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what went of branches, and why others could not; nothing where none did."""
    depth = report.get("depth")
    if depth is None:
        return
    each = depth["branches"]
    removed = [branch["name"] for branch in each if branch["removed"]]
    share = f"{depth['removed']:.1%} of what all of them compute"
    yield f"removed {len(removed)} of {plural(len(each), 'branch')}, {share}: {names_text(removed)}"
    targets = list(dict.fromkeys(branch["into"] for branch in each if branch["into"] is not None))
    if targets:
        yield f"their weights went into {plural(len(targets), 'block')}: {names_text(targets)}"
    maps = [each["branch"] for each in depth.get("linear", ()) if each["stays"]]
    if maps:
        yield f"in the place of {plural(len(maps), 'branch')} stands a linear map: {names_text(maps)}"
    none = [(each["reason"], each["branch"]) for each in depth.get("linear", ()) if each["reason"] is not None]
    if none:
        yield "\n".join(["no linear map can stand in for some, by reason:", *by_reason(none)])
    locked = [(branch["locked"], branch["name"]) for branch in each if branch["locked"] is not None]
    if locked:
        yield "\n".join(["branches that could not go, by reason:", *by_reason(locked)])
