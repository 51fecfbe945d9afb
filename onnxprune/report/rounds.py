"""The report of `prune` in rounds: what all of them came to, and each of them; and the table that is printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.metrics.words import headline
from onnxprune.report.words import new_table


def rounds_report(
    last: Mapping[str, Any],
    reports: Sequence[Mapping[str, Any]],
    *,
    options: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    initializers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the report of all rounds as plain values; see docs/report.md.

    Args:
        last: the report of the last round that cut something.
        reports: of all rounds; of those that had nothing to prune, why.
        options: of all rounds together.
        groups: of the original, with the units that are left in the end.
        nodes: accounts of the original.
        initializers: where the weights of the output come from in the original.
    """
    cuts = [report for report in reports if "skipped" not in report]
    source = cuts[0]["input"]
    return {
        **{name: value for name, value in last.items() if name != "round"},
        "input": source,
        "options": dict(options),
        "groups": list(groups),
        "nodes": list(nodes),
        "initializers": dict(initializers),
        "verification": proofs([report["verification"] for report in cuts]),
        "promise": None,
        "rounds": [_round(number, report, source) for number, report in enumerate(reports, 1)],
    }


def proofs(proofs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the proofs of several cuts, each against its own input, as one."""
    most = {name: max(proof[name] for proof in proofs) for name in ("max_abs_diff", "max_rel_diff", "noise")}
    return {
        "passed": all(proof["passed"] for proof in proofs),
        **most,
        "tolerance": proofs[-1]["tolerance"],
        "runs": [run for proof in proofs for run in proof["runs"]],
    }


def _round(number: int, report: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a round was to come to, and what it came to."""
    if "skipped" in report:
        return {"round": number, "skipped": report["skipped"], "tuning": report.get("tuning")}
    output, verification = report["output"], report["verification"]
    sizes = {"macs": output["macs"], "params": output["params"], "size_bytes": output["size_bytes"]}
    return {
        "round": number,
        "skipped": None,
        "wanted": report["round"]["wanted"],
        "reached": {name.removesuffix("_bytes"): value / max(1, source[name]) for name, value in sizes.items()},
        **sizes,
        "verification": {name: verification[name] for name in ("passed", "max_rel_diff", "tolerance")},
        **{name: report[name] for name in ("accuracy", "fidelity", "latency", "promise", "tuning")},
    }


# -- what is printed ---------------------------------------------------------------------------------------


def rounds_table(report: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a table of the rounds, and why some had nothing to do; nothing where there was one."""
    rounds = report.get("rounds")
    if rounds is None:
        return
    table = new_table("round", "MACs", "parameters", "steps", "held-out loss", "", left=(5,))
    for each in rounds:
        if each["skipped"] is None:
            table.add_row(str(each["round"]), *_counts(each), *_tuned(each["tuning"]), _outcome(each))
    yield table
    skipped = [each for each in rounds if each["skipped"] is not None]
    if skipped:
        yield "\n".join(map(_skipped, skipped))


def _skipped(each: Mapping[str, Any]) -> str:
    """Return why a round had nothing to prune, and the tuning that was left for it."""
    tuning, sentence = each["tuning"], f"round {each['round']} had nothing to do: {each['skipped']}"
    if tuning is None:
        return sentence
    steps, losses = _tuned(tuning)
    return f"{sentence}; the tuning that was left took {steps} steps, held-out loss {losses}"


def _counts(each: Mapping[str, Any]) -> tuple[str, str]:
    """Return MACs and parameters as shares of the original's."""
    macs, params = (f"{each['reached'][name]:.3f}" for name in ("macs", "params"))
    return macs, params


def _tuned(tuning: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the steps of tuning, and the loss of held-out samples before and after it."""
    if tuning is None:
        return "-", "-"
    losses = tuning["history"][0]["held"], tuning["best"]["held"]
    texts = ("-" if loss is None else f"{loss:.3g}" for loss in losses)
    return f"{tuning['steps']:,}", " -> ".join(texts)


def _outcome(each: Mapping[str, Any]) -> str:
    """Return what the round's model does of what the original does."""
    if each["accuracy"] is not None:
        return f"accuracy {each['accuracy']['after']:.2%}"
    return headline(each["fidelity"]["figures"]) if each["fidelity"] is not None else ""
