"""What ``onnxprune inspect`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxprune.report.words import all_printable, by_reason, count_text, names_text, new_table, not_run_lines, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.planning.inspection import Inspection


def inspect_tables(inspection: Inspection) -> list[RenderableType]:
    """Return what ``onnxprune inspect`` prints: groups, then locks by reason."""
    model = inspection.model
    share = inspection.locked_params / max(1, model.params)
    head = (
        f"{model.file.path or 'model'}: {len(model.file.nodes)} nodes, {model.stored_params:,} parameters, "
        f"{_macs_text(inspection)}, {share:.1%} of the parameters out of reach"
    )
    table = new_table("group", "kind", "units", "parameters", "MACs", "couples", left=(0, 1, 5))
    able = [group for group in inspection.groups if group.prunable]
    for group in able:
        macs = f"{inspection.group_macs[group.name] / max(1, inspection.macs):.1%}"
        params = f"{group.params / max(1, model.params):.1%}"
        table.add_row(
            *all_printable((group.name, group.kind, f"{group.units:,}", params, macs, names_text(group.nodes)))
        )
    locks = inspection.locks.items()
    reasons = [(why, f"{group.name} ({group.units} {group.kind})") for why, held in locks for group in held]
    without = [(a.locked[0].reason, a.node) for a in inspection.accounts if not a.pruned and a.locked[0].group is None]
    reasons += without
    end = "every group can be pruned" if able else "no group: the model has no weights that meet in an axis"
    lines = ["not pruned, by reason:", *by_reason(all_printable(reasons))] if reasons else [end]
    cut = sum(bool(account.pruned) for account in inspection.accounts)
    if inspection.accounts:
        lines.append(f"{cut} of {plural(len(inspection.accounts), 'node')} with weights can lose units")
    lines += all_printable(not_run_lines(each.to_dict() for each in model.not_run))
    return [all_printable(head), *[table] * bool(able), "\n".join(lines)]


def _macs_text(inspection: Inspection) -> str:
    """Return the multiply-accumulates in words; where no shape at a weight is known, that they are not."""
    is_unknown = not inspection.macs and any("unknown" in lock.reason for a in inspection.accounts for lock in a.locked)
    return "MACs unknown, as shapes are" if is_unknown else f"{count_text(inspection.macs)} MACs per sample"
