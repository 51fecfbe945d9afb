"""What ``onnxprune sensitivity`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.report.words import LOSSES, all_printable, names_text, new_table, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.planning.curves.sensitivity import Sensitive, Sensitivity


def sensitivity_tables(sensitivity: Sensitivity) -> list[RenderableType]:
    """Return what ``onnxprune sensitivity`` prints: the groups in the order of the graph, then advice."""
    table = new_table("group", "kind", "units", "MACs", "25%", "50%", "75%", "verdict", left=(0, 1))
    for group in sensitivity.groups:
        losses = [_loss(group.loss_at(share)) for share in (0.25, 0.5, 0.75)]
        words = verdict_words(group)
        table.add_row(*all_printable((group.name, group.kind, f"{group.units:,}", f"{group.macs:.1%}", *losses, words)))
    return [all_printable(_sensitivity_head(sensitivity)), table, "\n".join(all_printable(_advice(sensitivity)))]


def _sensitivity_head(sensitivity: Sensitivity) -> str:
    """Return the line above the table: what its numbers measure."""
    on = f"{plural(sensitivity.judged, 'sample')}{' that nothing was fitted to' * sensitivity.held_out}"
    fitted = "layers refitted" if sensitivity.reconstruct else "layers not refitted"
    return (
        f"{sensitivity.path or 'model'}: loss of the output ({LOSSES[sensitivity.metric]}) when one group loses 25, "
        f"50, 75 % of its units; on {on}, {fitted}"
    )


def verdict_words(group: Sensitive) -> str:
    """Return the verdict on a group in one or two words."""
    return f"{group.free:,} free" if group.verdict == "free" else group.verdict or ""


def _advice(sensitivity: Sensitivity) -> list[str]:
    """Return what the verdicts mean for pruning."""
    lines = []
    if sensitivity.protect:
        names = names_text(group.name for group in sensitivity.protect)
        lines.append(f"protect (high loss per MAC saved; spare them with --ignore): {names}")
    if sensitivity.free:
        units = sum(group.free for group in sensitivity.free)
        saved = f"{sensitivity.free_macs:.1%} of the MACs and {sensitivity.free_params:.1%} of the parameters"
        lines.append(
            f"free: {units:,} units of {plural(len(sensitivity.free), 'group')}, {saved} if all go; each group then "
            "costs at most a twentieth of what a typical one costs that loses half"
        )
    if sensitivity.measured < sensitivity.losses:
        lines.append(
            f"{sensitivity.measured:,} of {sensitivity.losses:,} losses measured, the others told by errors; "
            "--effort thorough has all"
        )
    if not sensitivity.held_out:
        lines.append("measured on what the layers were fitted to: give more samples, or others with --eval-data")
    return lines or ["no group stands out"]


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
