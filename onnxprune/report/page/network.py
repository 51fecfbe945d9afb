"""The picture of a network: rows in the order in which data flows, with what each costs, before and after.

A row is a group with the layers that make or consume its units. A layer counts for one row: that of the group, among
those that its weights carry, which begins last, so that a layer between two groups belongs to the inner one; of two
groups with one axis, as the heads and the dims of a head, to the one that lost units, or else to the first. What
multiplies nothing, and layers that no group has in the middle of others, count for the row before them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxprune.dependency.account import frees
from onnxprune.report.page.tones import UNKNOWN, WHOLE, WORDS, half_losses, tones_of
from onnxprune.report.page.views import Block, Column, Cost, LayerView, Network, Row
from onnxprune.report.words import count_text, ms_text

UNITS = (("units", "units", lambda value: f"{value:,.0f}"),)  # what a report without details tells of costs
MEASURES = (
    ("macs", "multiplications", count_text),
    ("ms", "milliseconds", ms_text),
    ("params", "parameters", count_text),
)
BLOCK = "several", "a block of rows"
MOST_ROWS = 60  # that are not folded into blocks
MOST_COLUMNS = 240  # of the overview
MOST_LAYERS = 1500  # that are listed
MOST_LISTED = 700  # rows that are listed: of more, the dearest of each block
_PLACE = r" \(at .*\)"

Layer = Mapping[str, Any]


@dataclass
class _Draft:
    """A row that is being filled."""

    name: str
    group: Mapping[str, Any] | None
    layers: list[Layer] = field(default_factory=list)


def network(report: Mapping[str, Any], tones: Mapping[str, str] | None = None) -> Network | None:
    """Return the picture of the network of a report; None where it has no layers.

    Args:
        report: of a cut, or its groups, nodes and details.
        tones: by group; by default those of the loss curves of the report.
    """
    details, groups = report.get("details"), report.get("groups", ())
    drafts = (
        [_Draft(group["name"], group) for group in groups] if details is None else _drafts(details["layers"], groups)
    )
    if not drafts:
        return None
    tones = _tones(report, groups) if tones is None else tones
    locked = {node["node"]: node["locked"] for node in report.get("nodes", ())}
    each = max(1, MOST_LAYERS // len(drafts))
    rows = [_row(number, draft, tones, locked, each) for number, draft in enumerate(drafts)]
    known = UNITS if details is None else MEASURES
    measures = [(key, name) for key, name, _ in known if any(row.costs[key].before for row in rows)]
    rows = _scaled(rows, [key for key, _ in measures])
    found = {row.tone for row in rows}
    folded = len(rows) > MOST_ROWS
    if not found - {UNKNOWN[0], WHOLE[0]}:  # without a curve anywhere, a colour for it says nothing
        rows = [replace(row, tone="", says="") if row.tone == UNKNOWN[0] else row for row in rows]
        found -= {UNKNOWN[0]}
    blocks = _listed(_blocks(rows), measures[0][0] if measures else "") if folded else [_block("", rows)]
    legend = [(key, words) for key, words in {**WORDS, **dict([BLOCK] * folded)}.items() if key in found | {BLOCK[0]}]
    return Network(
        measures=measures,
        blocks=blocks,
        columns=_columns(rows, [key for key, _ in measures], {row.number for block in blocks for row in block.rows}),
        legend=legend if found else [],
        folded=folded,
        called="groups" if groups else "layers",
    )


def _drafts(layers: Sequence[Layer], groups: Sequence[Mapping[str, Any]]) -> list[_Draft]:
    """Return the layers in rows."""
    place = {layer["node"]: at for at, layer in enumerate(layers)}
    begins = {
        group["name"]: min((place[node] for node in group["nodes"] if node in place), default=-1) for group in groups
    }

    def rank(group: Mapping[str, Any]) -> tuple[int, bool]:
        return begins[group["name"]], group.get("kept", group["units"]) < group["units"]

    of: dict[str, Mapping[str, Any]] = {}
    for group in groups:
        for node in group["nodes"]:
            if node not in of or rank(group) > rank(of[node]):
                of[node] = group
    counted = any(layer["macs"][0] or layer["macs"][1] for layer in layers)
    rows: dict[str, _Draft] = {}
    at: _Draft | None = None
    for layer in layers:
        carried = of.get(layer["node"])
        heavy = not counted or any(layer["macs"])
        if at is None or (heavy and (carried is not None or not groups)):
            key = layer["node"] if carried is None else carried["name"]
            at = rows.setdefault(key, _Draft(key, carried))
        at.layers.append(layer)
    return list(rows.values())


def _tones(report: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the tones of all groups; those that lose the same units have the curve of the first."""
    curves = report.get("curves") or {}
    tones = tones_of(half_losses(curves, {group["name"]: group["units"] for group in groups}))
    alike: dict[Any, str] = {}
    for group in groups:
        if "kept_units" in group and group["kept"] < group["units"]:
            key = group["units"], tuple(group["kept_units"])
            tone = tones.get(group["name"]) or alike.get(key)
            if tone is not None:
                alike[key] = tones[group["name"]] = tone
    return tones


# -- rows --------------------------------------------------------------------------------------------------


def _row(
    number: int, draft: _Draft, tones: Mapping[str, str], locked: Mapping[str, Sequence[Mapping[str, Any]]], most: int
) -> Row:
    group, layers = draft.group, draft.layers
    reason = _reason(group, layers, locked)
    tone = tones.get(draft.name) or (WHOLE[0] if reason else UNKNOWN[0])
    if group is None:
        units = ""
    else:
        kept = group.get("kept", group["units"])
        units = f"{group['units']:,}" if kept == group["units"] else f"{group['units']:,} → {kept:,}"
    return Row(
        number=number,
        name=draft.name,
        kind=layers[0]["op"] if group is None else group["kind"],
        units=units,
        tone=tone,
        says=f"{WORDS[tone]}, stays whole" if reason and tone != WHOLE[0] else WORDS[tone],
        reason=reason,
        frees="" if not reason or frees(reason).startswith("nothing") else frees(reason),
        costs=_costs(layers) if layers else _units(group),
        layers=[_layer(layer) for layer in layers[:most]],
        more_layers=max(0, len(layers) - most),
    )


def _reason(
    group: Mapping[str, Any] | None, layers: Sequence[Layer], locked: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Return why a row stayed whole; empty where it did not, or nobody says."""
    if group is not None:
        return str(group.get("locked") or "")
    reasons = [lock["reason"] for layer in layers[:1] for lock in locked.get(layer["node"], ())]
    return str(reasons[0]) if reasons else ""


def _costs(layers: Sequence[Layer]) -> dict[str, Cost]:
    """Return what layers cost together."""
    return {key: _cost(layers, key, show) for key, _, show in MEASURES}


def _units(group: Mapping[str, Any] | None) -> dict[str, Cost]:
    """Return how many units a group has, where nothing else is known of it."""
    before, after = (0, 0) if group is None else (group["units"], group["kept"])
    return {key: Cost(before, after, change_text(before, after, show)) for key, _, show in UNITS}


def _cost(layers: Iterable[Layer], key: str, show: Any) -> Cost:
    pairs = [layer[key] or (0.0, 0.0) for layer in layers]
    before, after = (sum(pair[side] for pair in pairs) for side in (0, 1))
    return Cost(before, after, change_text(before, after, show))


def change_text(before: float, after: float, show: Any) -> str:
    """Return a cost before and after, once where both look alike."""
    one, other = show(before), show(after)
    return one if one == other else f"{one} → {other}"


def _layer(layer: Layer) -> LayerView:
    shapes = [None if shape is None else "×".join(map(str, shape)) or "scalar" for shape in layer["shapes"]]
    old, new = shapes
    words = old or new or "no weight"
    if old and new and old != new:
        words = f"{old} → {new}"
    elif old and not new:
        words = f"{old}, gone"
    elif new and not old:
        words = f"{new}, new"
    pairs = {key: layer[key] or (0, 0) for key, _, _ in MEASURES}
    costs = {key: change_text(pairs[key][0], pairs[key][1], show) for key, _, show in MEASURES}
    return LayerView(layer["node"], layer["op"], words, costs)


def _scaled(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """Return rows with the widths of their bars: the most expensive one is 100."""
    most = {key: max((max(row.costs[key].before, row.costs[key].after) for row in rows), default=0) for key in keys}
    return [replace(row, costs={key: _wide(row.costs[key], most[key]) for key in keys}) for row in rows]


def _wide(cost: Cost, most: float) -> Cost:
    before, after = (round(100 * value / most, 2) if most else 0.0 for value in (cost.before, cost.after))
    return replace(cost, width=max(before, after), kept=after)


# -- blocks ------------------------------------------------------------------------------------------------


def _blocks(rows: Sequence[Row]) -> list[Block]:
    """Return rows in blocks: by what their names begin with where that makes some, else by their place."""
    by_name = [_runs(rows, depth) for depth in range(1, 8)]
    best = next((runs for runs in reversed(by_name) if 4 <= len(runs) <= MOST_ROWS), None)
    if best is None:
        step = -(-len(rows) // (MOST_ROWS // 2))
        best = [list(rows[at : at + step]) for at in range(0, len(rows), step)]
    blocks = [_block(_common(run), run) for run in best]
    keys = list(rows[0].costs)
    most = {key: max(max(block.costs[key].before, block.costs[key].after) for block in blocks) for key in keys}
    return [replace(block, costs={key: _wide(block.costs[key], most[key]) for key in keys}) for block in blocks]


def _listed(blocks: Sequence[Block], key: str) -> list[Block]:
    """Return blocks with as many rows as a page has room for: of each the dearest ones, in their order."""
    if sum(len(block.rows) for block in blocks) <= MOST_LISTED:
        return list(blocks)
    most = max(1, MOST_LISTED // len(blocks))
    found = []
    for block in blocks:
        dearest = sorted(block.rows, key=lambda row: -max(row.costs[key].before, row.costs[key].after))[:most]
        rows = sorted(dearest, key=lambda row: row.number)
        found.append(replace(block, rows=rows, more=len(block.rows) - len(rows)))
    return found


def _runs(rows: Sequence[Row], depth: int) -> list[list[Row]]:
    """Return rows that follow each other and whose names begin with the same parts."""
    return [list(run) for _, run in itertools.groupby(rows, lambda row: _prefix(row.name, depth))]


def _prefix(name: str, depth: int) -> str:
    """Return the first parts of a name.

    >>> _prefix("/encoder/layer.1/attention/query", 3)
    'encoder/layer/1'
    """
    return "/".join([part for part in re.split(r"[/.:_]+", name) if part][:depth])


def _common(rows: Sequence[Row]) -> str:
    """Return what the names of rows begin with, or the first and last of them."""
    if len(rows) == 1:
        return rows[0].name
    first, last = min(row.name for row in rows), max(row.name for row in rows)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = re.sub(r"[^/.:_]*$", "", first[:same]).strip("/.:_")
    return shared or f"{rows[0].name} … {rows[-1].name}"


def _block(name: str, rows: Sequence[Row]) -> Block:
    shows = {key: show for key, _, show in (*UNITS, *MEASURES)}
    costs = {}
    for key in rows[0].costs:
        before, after = (sum(getattr(row.costs[key], side) for row in rows) for side in ("before", "after"))
        costs[key] = Cost(before, after, change_text(before, after, shows[key]))
    return Block(name, costs, rows)


# -- the overview ------------------------------------------------------------------------------------------


def _columns(rows: Sequence[Row], keys: Sequence[str], listed: Collection[int]) -> list[Column]:
    """Return a column for each row, or for some that follow each other; heights are of 100, the highest of all.

    Args:
        rows: of the picture.
        keys: of the measures.
        listed: numbers of the rows that the page has: what a column may lead to.
    """
    step = -(-len(rows) // MOST_COLUMNS)
    runs = [rows[at : at + step] for at in range(0, len(rows), step)]
    sums = [
        {key: tuple(sum(getattr(row.costs[key], side) for row in run) for side in ("before", "after")) for key in keys}
        for run in runs
    ]
    most = {key: max((max(each[key]) for each in sums), default=0) or 1 for key in keys}
    width = 1000 / len(runs)
    return [
        Column(
            x=round(at * width, 2),
            width=round(width - min(2.0, width / 5), 2),
            row=next((row.number for row in run if row.number in listed), None),
            tone=max(run, key=lambda row: row.costs[keys[0]].before).tone,
            words=run[0].name if len(run) == 1 else f"{run[0].name} and {len(run) - 1} more",
            heights={
                key: (round(100 * max(each[key]) / most[key], 2), round(100 * each[key][1] / most[key], 2))
                for key in keys
            },
        )
        for at, (run, each) in enumerate(zip(runs, sums, strict=True))
    ]
