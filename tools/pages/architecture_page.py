"""Draw the rooms of the package, and list them in docs/architecture.md, from the imports.

python tools/pages/architecture_page.py            write both
python tools/pages/architecture_page.py --check    exit with 1 when they are not current

The order of the rooms is that of the import contract in pyproject.toml. An arc is drawn for each room that another one
imports from, the thicker the more modules do. The way of a model is `STEPS`: a step is a function that the commands
call, so the script fails when one of them is gone.
"""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.pages.made import write_or_check  # noqa: E402

PACKAGE = ROOT / "onnxprune"
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "pictures" / "architecture.svg"
BEGIN, END = "<!-- rooms: made by tools/pages/architecture_page.py -->", "<!-- end of the rooms -->"

STEPS = (  # of `prune`, in their order: words, and where the function is
    ("read and check the file", "graph.files.read:load"),
    ("couple axes, lock the rest", "dependency.trace:trace"),
    ("name groups of units", "dependency.groups:groups"),
    ("read samples, or make them up", "data.samples:load_data"),
    ("batches to calibrate on", "calibration.batches:calibration"),
    ("score units", "criteria.importance:score"),
    ("loss curves and targets to a plan", "planning.plan:plan"),
    ("cut", "surgery.rewrite:rewrite"),
    ("refit the layers", "recovery.refit:refit"),
    ("prove: masked = pruned", "evaluation.verify:verify"),
    ("time and compare both", "evaluation.compare:compare_models"),
    ("write the report", "report.document:build_report"),
)
WIDTH, ROW, TOP = 1060, 46, 62
LEFT, BOX, RIGHT, STEP = 150, 440, 632, 34  # edges of the boxes, their width, where steps begin, how far apart
INK, PALE, FILL, LINE, WAY = "#1f2933", "#5f6b7a", "#eef3f8", "#b8c4d0", "#c2410c"


@dataclass(frozen=True)
class Room:
    """A folder of the package."""

    name: str
    job: str  # the first sentence of its docstring
    modules: dict[str, str]  # first sentence of the docstring, by name, those of its rooms last
    rooms: dict[str, str]  # inside of it: first sentences, by name
    imports: Counter[str]  # modules that import from another room, by its name


def order() -> list[str]:
    """Return the rooms from top to bottom, as the import contract has them; modules at the top of the package apart."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [name for name in layers if (PACKAGE / name).is_dir()]


def first_sentence(text: str | None) -> str:
    """Return the first line of a docstring."""
    return (text or "").strip().split("\n\n")[0].replace("\n", " ")


def room(name: str) -> Room:
    """Read a room from its files."""
    modules: dict[str, str] = {}
    rooms: dict[str, str] = {}
    imports: Counter[str] = Counter()
    for path in sorted((PACKAGE / name).rglob("*.py"), key=lambda path: (len(path.parts), path)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        relative = path.relative_to(PACKAGE / name).with_suffix("")
        if path.name != "__init__.py":
            modules["/".join(relative.parts)] = first_sentence(ast.get_docstring(tree))
        elif len(relative.parts) > 1:
            rooms["/".join(relative.parts[:-1])] = first_sentence(ast.get_docstring(tree))
        sources = {
            node.module.split(".")[1]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("onnxprune.")
        }
        imports.update(sources - {name})
    job = first_sentence(ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))))
    return Room(name, job, modules, rooms, imports)


def check_steps() -> None:
    """Fail when a step names a function that is gone."""
    for _, place in STEPS:
        module, _, function = place.partition(":")
        if not callable(getattr(importlib.import_module(f"onnxprune.{module}"), function, None)):
            raise SystemExit(f"{place}: no such function; mend STEPS")


def text(x: float, y: float, words: str, **style: str | int) -> str:
    """Return a line of text; `style` holds SVG attributes, with underscores for hyphens."""
    attributes = {"font_size": 12, "fill": INK, **style}
    listed = " ".join(f'{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x}" y="{y}" {listed}>{escape(words)}</text>'


def arcs(rooms: list[Room], rows: dict[str, float]) -> list[str]:
    """Return an arc on the left for each pair of rooms of which one imports from the other."""
    parts = []
    for each in rooms:
        for other, count in sorted(each.imports.items()):
            if other not in rows:
                continue
            above, below = rows[each.name] + 4, rows[other] - 4
            bend = LEFT - 14 - 150 * (below - above) / (ROW * len(rooms))
            parts.append(
                f'<path d="M{LEFT} {above} C{bend:.1f} {above} {bend:.1f} {below} {LEFT} {below}" fill="none" '
                f'stroke="{LINE}" stroke-width="{min(2.4, 0.4 + 0.2 * count):.2f}">'
                f"<title>{count} modules of {each.name} import from {other}</title></path>"
            )
    return parts


def way(rows: dict[str, float]) -> list[str]:
    """Return the steps of `prune` from left to right, each in the row of its room, and what they are."""
    places = [(RIGHT + STEP * number, rows[place.split(".")[0]]) for number, (_, place) in enumerate(STEPS)]
    line = " ".join(f"{x},{y}" for x, y in places)
    parts = [
        text(LEFT + BOX + 24, TOP - 14, "the way of a model through prune", font_size=13, fill=WAY, font_weight=600)
    ]
    for y in sorted({y for _, y in places}):
        last = max(x for x, at in places if at == y)
        parts.append(f'<line x1="{LEFT + BOX}" y1="{y}" x2="{last}" y2="{y}" stroke="{LINE}" stroke-dasharray="2 4"/>')
    parts.append(f'<polyline points="{line}" fill="none" stroke="{WAY}" stroke-width="2" stroke-linejoin="round"/>')
    for number, (x, y) in enumerate(places, 1):
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="11" fill="{WAY}"><title>{escape(STEPS[number - 1][0])}</title></circle>'
        )
        label = {"font_size": 11, "fill": "#ffffff", "text_anchor": "middle", "font_weight": 600}
        parts.append(text(x, y + 4, str(number), **label))
    bottom, half = max(rows.values()) + 52, (len(STEPS) + 2) // 3
    for number, (words, place) in enumerate(STEPS):
        x, y = LEFT + 330 * (number // half), bottom + 20 * (number % half)
        parts.append(text(x, y, f"{number + 1}", fill=WAY, font_weight=600))
        parts.append(text(x + 22, y, f"{words}: {place.split(':')[0].split('.')[-1]}.py"))
    return parts


def picture(rooms: list[Room]) -> str:
    """Return the drawing."""
    rows = {each.name: TOP + ROW * number + 16 for number, each in enumerate(rooms)}
    height = TOP + ROW * len(rooms) + 120
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="The rooms of onnxprune">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 24, "onnxprune: a room imports only from rooms below it", font_size=15, font_weight=600),
        text(LEFT, TOP - 14, "grey arcs: imports, the thicker the more modules", fill=PALE),
        *arcs(rooms, rows),
    ]
    for each in rooms:
        y = rows[each.name]
        parts.append(
            f'<rect x="{LEFT}" y="{y - 18}" width="{BOX}" height="36" rx="5" fill="{FILL}" stroke="{LINE}">'
            f"<title>{escape(', '.join(each.modules))}</title></rect>"
        )
        count = f"{len(each.modules)} modules"
        parts.append(text(LEFT + 10, y - 3, f"{each.name}/", font_size=13, font_weight=600))
        parts.append(text(LEFT + BOX - 10, y - 3, count, font_size=11, fill=PALE, text_anchor="end"))
        parts.append(text(LEFT + 10, y + 12, shortened(each.job, 74), font_size=11, fill=PALE))
    return "\n".join([*parts, *way(rows), "</svg>"]) + "\n"


def shortened(words: str, most: int) -> str:
    """Return the first sentence; its first words where it is long."""
    sentence = words.split(". ", maxsplit=1)[0].rstrip(".")
    return sentence if len(sentence) <= most else sentence[: most - 1].rsplit(" ", 1)[0] + " …"


def listing(rooms: list[Room]) -> str:
    """Return the rooms and their modules as Markdown."""
    lines = [BEGIN, ""]
    for each in rooms:
        lines += [f"### `{each.name}/`", "", each.job, "", "| module | what it holds |", "| --- | --- |"]
        rows = {f"{name}.py": job for name, job in each.modules.items()} | {
            f"{name}/": job for name, job in each.rooms.items()
        }
        inside = sorted(rows, key=lambda name: ("/" in name, name))
        lines += [f"| `{name}` | {rows[name].rstrip('.').replace('|', '&#124;')} |" for name in inside]
        lines.append("")
    return "\n".join([*lines, END])


def files() -> dict[Path, str]:
    """Return the text of the picture and of the page, by their paths."""
    check_steps()
    rooms = [room(name) for name in order()]
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return {PICTURE: picture(rooms), PAGE: head + listing(rooms) + tail}


def main() -> int:
    """Write or check both files."""
    return write_or_check("tools/pages/architecture_page.py", __doc__, files)


if __name__ == "__main__":
    sys.exit(main())
