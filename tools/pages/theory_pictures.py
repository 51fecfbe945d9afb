"""Draw the pictures of docs/theory.md: small graphs as onnxprune traces them, with the units that a cut removes.

python tools/pages/theory_pictures.py            write docs/pictures/theory_*.svg
python tools/pages/theory_pictures.py --check    exit with 1 when they are not current

Every label, colour and hollow cell comes from a trace of the graph that `FIGURES` states; only the places are chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.dependency.axes import Atom, Axis, Mask, Product, Sum, kept_mask  # noqa: E402
from onnxprune.dependency.groups import Group, groups  # noqa: E402
from onnxprune.dependency.rules import Coupling  # noqa: E402
from onnxprune.dependency.trace import Trace, trace  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402
from tools.pages.made import write_or_check  # noqa: E402

CELL, TITLE, MARGIN = 13, 20, 18  # pixels: a cell, the line above a tensor, around the picture
COLOURS = ("#3f7fd6", "#d9772b", "#2f9b76")  # of the groups of a picture, in their order
STYLE = """<style>
.back { fill: #ffffff; stroke: #d8dee6 } .ink { fill: #1f2933 } .pale { fill: #5f6b7a } .fixed { fill: #c9d1da }
.gone { fill: none; stroke: #8793a1; stroke-dasharray: 2 2 } .way { stroke: #8793a1; fill: none } .tip { fill: #8793a1 }
.zero { fill: #1f2933; font-size: 10px }
text { font: 12px system-ui, sans-serif } .name { font-weight: 600 } .op { font-style: italic }
@media (prefers-color-scheme: dark) {
.back { fill: #16191d; stroke: #343b44 } .ink, .zero { fill: #e6eaef } .pale { fill: #a3afbd } .fixed { fill: #4a535e }
}
</style>"""


@dataclass(frozen=True)
class Figure:
    """A graph, the units that go, and where its tensors are drawn."""

    title: str
    nodes: tuple[str, ...]  # in the text form of onnx.parser
    x: str  # the input, with its type
    weights: Mapping[str, tuple[int, ...]]  # by name, float32
    removed: Mapping[str, tuple[int, ...]]  # units by group
    letters: Mapping[str, str]  # how a group's atom is called
    places: Mapping[str, tuple[float, float]]  # pixels from the left and the top, by tensor
    size: tuple[int, int]  # width and height
    constants: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # shapes that nodes take, int64

    def proto(self) -> onnx.ModelProto:
        """Return the model."""
        body = "\n".join(self.nodes)
        text = f'<ir_version: 8, opset_import: ["" : 18]> g ({self.x}) => (float[] y) {{\n{body}\n}}'
        model = parser.parse_model(text)
        for name, shape in self.weights.items():
            model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
        for name, values in self.constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return onnx.shape_inference.infer_shapes(model, data_prop=True)


def chain(places: Mapping[str, tuple[float, float]], size: tuple[int, int], title: str) -> Figure:
    """Return two convolutions with a Relu between them: the picture of atoms, and both sides of the proof."""
    return Figure(
        title,
        ("a = Conv(x, w1)", "b = Relu(a)", "y = Conv(b, w2)"),
        "float[n,3,h,w] x",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1)},
        {"w1": (1, 4)},
        {"w1": "c"},
        places,
        size,
    )


FIGURES: Mapping[str, tuple[tuple[Figure, str], ...]] = {  # by file: what is drawn side by side, and how
    "atoms": (
        (
            chain(
                {"w1": (20, 44), "a": (190, 44), "b": (190, 124), "w2": (350, 110), "y": (190, 220)},
                (520, 245),
                "one atom: the filters of w1, the channels of a and b, the inputs of w2",
            ),
            "cut",
        ),
    ),
    "residual": (
        (
            Figure(
                "a residual Add: both sides are one atom, so three weights lose the same units",
                ("a = Conv(x, w1)", "b = Conv(a, w2)", "s = Add(a, b)", "y = Conv(s, w3)"),
                "float[n,3,h,w] x",
                {"w1": (6, 3, 1, 1), "w2": (6, 6, 1, 1), "w3": (4, 6, 1, 1)},
                {"w1": (1, 4)},
                {"w1": "c"},
                {
                    "w1": (20, 44), "a": (200, 44), "w2": (430, 70), "b": (330, 180), "s": (200, 250),
                    "w3": (20, 240), "y": (200, 330),
                },
                (560, 355),
            ),
            "cut",
        ),
    ),
    "concat": (
        (
            Figure(
                "a Concat: its axis is a sum; each part keeps its own units",
                ("a = Conv(x, w1)", "b = Conv(x, w2)", "c = Concat <axis=1>(a, b)", "y = Conv(c, w3)"),
                "float[n,3,h,w] x",
                {"w1": (4, 3, 1, 1), "w2": (3, 3, 1, 1), "w3": (4, 7, 1, 1)},
                {"w1": (1,), "w2": (0, 2)},
                {"w1": "c", "w2": "d"},
                {
                    "w1": (20, 44), "a": (180, 70), "w2": (500, 44), "b": (330, 70), "c": (240, 170),
                    "w3": (440, 150), "y": (240, 260),
                },
                (620, 285),
            ),
            "cut",
        ),
    ),
    "flatten": (
        (
            Figure(
                "a Flatten: its axis is a product; a channel is four rows of the layer behind it",
                ("a = Conv(x, w1)", "f = Flatten(a)", "y = MatMul(f, w2)"),
                "float[n,3,2,2] x",
                {"w1": (4, 3, 1, 1), "w2": (16, 3)},
                {"w1": (1,)},
                {"w1": "c"},
                {"w1": (20, 44), "a": (170, 44), "f": (170, 130), "w2": (460, 44), "y": (170, 220)},
                (620, 270),
            ),
            "cut",
        ),
    ),
    "heads": (
        (
            Figure(
                "attention: heads are the outer factor h; d of queries and keys and e of values are atoms, too",
                (
                    "q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)",
                    "q4 = Reshape(q, shape)", "k4 = Reshape(k, shape)", "v4 = Reshape(v, shape)",
                    "qt = Transpose <perm=[0,2,1,3]>(q4)", "kt = Transpose <perm=[0,2,3,1]>(k4)",
                    "vt = Transpose <perm=[0,2,1,3]>(v4)", "s = MatMul(qt, kt)", "p = Softmax(s)",
                    "o = MatMul(p, vt)", "ot = Transpose <perm=[0,2,1,3]>(o)", "m = Reshape(ot, back)",
                    "y = MatMul(m, wo)",
                ),
                "float[1,t,8] x",
                {"wq": (8, 6), "wk": (8, 6), "wv": (8, 6), "wo": (6, 8)},
                {"wq:heads": (1,)},
                {"wq:heads": "h", "wq:head_dims": "d", "wv": "e"},
                {
                    "wq": (20, 44), "wk": (240, 44), "wv": (460, 44), "q": (20, 200), "k": (240, 200), "v": (460, 200),
                    "p": (130, 280), "m": (300, 360), "wo": (460, 300), "y": (300, 440),
                },
                (680, 470),
                {"shape": (0, 0, 3, 2), "back": (0, 0, -1)},
            ),
            "cut",
        ),
    ),
    "proof": (
        (
            chain(
                {"w1": (20, 44), "b": (20, 180), "w2": (150, 160), "y": (20, 270)},
                (330, 295),
                "masked: zeros where w2 sums over c",
            ),
            "masked",
        ),
        (
            chain(
                {"w1": (20, 44), "b": (20, 180), "w2": (150, 160), "y": (20, 270)},
                (330, 295),
                "pruned: the same numbers, no zeros",
            ),
            "pruned",
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """What one index of an axis belongs to."""

    group: str
    number: int


class Picture:
    """A figure, traced."""

    def __init__(self, figure: Figure, way: str) -> None:
        self.figure, self.way = figure, way  # cut: removed cells are hollow; masked: zeros; pruned: they are gone
        self.trace: Trace = trace(load(figure.proto()))
        every: dict[str, Group] = {group.name: group for group in groups(self.trace)}
        self.shown = {every[name].atom: name for name in figure.letters}
        self.kept: dict[Atom, Mask] = {}
        for name, removed in figure.removed.items():
            self.kept[every[name].atom] = ~np.isin(np.arange(every[name].units), removed)
        self.coloured = {name: COLOURS[number] for number, name in enumerate(figure.removed)}

    def axes(self, name: str) -> tuple[Axis, ...]:
        """Return the axes of a weight or a value."""
        use = next((use for use in self.trace.uses if use.constant == name), None)
        return self.trace.axes(use.axes if use else self.trace.values[name])

    def units(self, axis: Axis) -> list[Unit | None]:
        """Return what each index of an axis belongs to among the groups that are removed from; None: to none."""
        if isinstance(axis, Atom):
            name = self.shown.get(axis)
            cut = name is not None and name in self.coloured
            return [Unit(str(name), number) if cut else None for number in range(axis.size)]
        if isinstance(axis, Sum):
            return [unit for part in axis.parts for unit in self.units(part)]
        inner: list[Unit | None] = [None]
        for factor in reversed(axis.factors):
            inner = [outer or unit for outer in self.units(factor) for unit in inner]
        return inner

    def label(self, axis: Axis) -> str:
        """Return an axis in the notation of rules, with the letters of the figure."""
        if isinstance(axis, Atom):
            if axis in self.shown:
                kept = self.kept.get(axis)
                count = int(kept.sum()) if kept is not None and self.way == "pruned" else axis.size
                return f"{self.figure.letters[self.shown[axis]]}:{count}"
            return axis.name if axis.dynamic else str(axis.size)
        if isinstance(axis, Product):
            return f"({' '.join(map(self.label, axis.factors))})" if axis.factors else "1"
        return f"[{' + '.join(map(self.label, axis.parts))}]"

    def is_masked(self, name: str) -> bool:
        """Return whether some op contracts units that go with this tensor: there the mask stands."""
        return any(
            name == coupling.node.inputs[slot] and not kept_mask(self.resolved(coupling, slot, dim), self.kept).all()
            for coupling in self.trace.couplings.values()
            for slot, dim in coupling.contracted
        )

    def resolved(self, coupling: Coupling, slot: int, dim: int) -> Axis:
        """Return an axis of an input of a node."""
        return self.trace.partition.resolve((coupling.inputs[slot] or ())[dim])

    def grid(self, name: str) -> tuple[Axis | None, Axis]:
        """Return the axes that are drawn downwards and to the right: of a value its features alone."""
        axes = self.axes(name)
        if name in self.figure.weights:
            return axes[0], axes[1]
        fixed = [axis for axis in axes if not (isinstance(axis, Atom) and axis.dynamic) and axis.size > 1]
        return None, max(fixed, key=lambda axis: (any(self.units(axis)), -axes.index(axis)))

    def tensor(self, name: str) -> Iterator[str]:
        """Yield a tensor: its name and axes, and a cell for each index."""
        x, y = self.figure.places[name]
        down, right = self.grid(name)
        labels = ", ".join(map(self.label, self.axes(name)))
        words = f'<tspan class="name">{escape(name)}</tspan> [{escape(labels)}]'
        yield f'<text x="{x}" y="{y - 6}" class="ink">{words}</text>'
        rows = self.indices(down) if down is not None else [(None, True)]
        for row, (of_row, row_stays) in enumerate(rows):
            for column, (of_column, column_stays) in enumerate(self.indices(right)):
                at, stays = (x + CELL * column, y + CELL * row), row_stays and column_stays
                yield self.cell(at, of_row or of_column, stays=stays, masked=self.is_masked(name))

    def indices(self, axis: Axis) -> list[tuple[Unit | None, bool]]:
        """Return for each index of an axis that is drawn what it belongs to, and whether it stays."""
        pairs = list(zip(self.units(axis), map(bool, kept_mask(axis, self.kept)), strict=True))
        return [pair for pair in pairs if pair[1]] if self.way == "pruned" else pairs

    def cell(self, at: tuple[float, float], unit: Unit | None, *, stays: bool, masked: bool) -> str:
        """Return one cell; neighbouring units differ in shade."""
        box = f'x="{at[0]:g}" y="{at[1]:g}" width="{CELL - 2}" height="{CELL - 2}"'
        if not stays and self.way == "masked" and masked:
            number = f'<text x="{at[0] + CELL / 2 - 1:g}" y="{at[1] + 9:g}" text-anchor="middle" class="zero">0</text>'
            return f'<rect {box} class="gone"/>{number}'
        if not stays and self.way == "cut":
            return f'<rect {box} class="gone"/>'
        if unit is None:
            return f'<rect {box} class="fixed"/>'
        return f'<rect {box} fill="{self.coloured[unit.group]}" opacity="{0.95 if unit.number % 2 else 0.7}"/>'

    def ways(self) -> Iterator[str]:
        """Yield an arrow for each pair of tensors that are drawn and follow each other, with the ops between them."""
        for name in self.figure.places:
            sources = self.sources(name)
            values = [(source, tuple(ops)) for source, ops in sources if source not in self.figure.weights]
            last = {ops: source for source, ops in values}  # words that are the same stand once
            for source, ops in sources:
                yield from self.arrow(source, name, ops if last.get(tuple(ops)) == source else [])

    def sources(self, name: str) -> list[tuple[str, list[str]]]:
        """Return the drawn tensors that a value is computed from, each with the ops on the way."""
        node = next((node for node in self.trace.model.nodes if name in node.outputs), None)
        found: list[tuple[str, list[str]]] = []
        for read in node.inputs if node else ():
            if read in self.figure.places:
                found.append((read, [node.op] if node else []))
            else:
                found += [(source, [*ops, node.op if node else ""]) for source, ops in self.sources(read)]
        return found

    def arrow(self, source: str, target: str, ops: Sequence[str]) -> Iterator[str]:
        """Yield an arrow from one tensor to another, with the names of ops beside it."""
        (x, y), (end_x, end_y) = self.figure.places[source], self.figure.places[target]
        width, height = self.extent(source)
        end_width, _ = self.extent(target)
        if source in self.figure.weights:
            side = x > end_x
            start = (x - 4, y + height / 2) if side else (x + width + 4, y + height / 2)
            end = (end_x + end_width + 6, end_y + CELL / 2) if side else (end_x - 6, end_y + CELL / 2)
            if end_y > y + height:  # below: into its name
                start, end = (x + width / 2, y + height + 3), (end_x + min(width, end_width) / 2, end_y - TITLE)
        else:
            start, end = (x + width / 2, y + height + 3), (end_x + end_width / 2, end_y - TITLE)
        yield f'<path class="way" d="M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}" marker-end="url(#tip)"/>'
        if ops:
            middle = ((start[0] + end[0]) / 2 + 7, (start[1] + end[1]) / 2 + 4)
            words = " · ".join(op for op in ops if op not in ("Reshape", "Transpose"))
            yield f'<text x="{middle[0]:g}" y="{middle[1]:g}" class="pale op">{escape(words)}</text>'

    def extent(self, name: str) -> tuple[float, float]:
        """Return the width and height of the cells of a tensor."""
        down, right = self.grid(name)
        return CELL * len(self.indices(right)), CELL * (1 if down is None else len(self.indices(down)))

    def draw(self) -> str:
        """Return the picture without its frame."""
        title = f'<text x="{MARGIN}" y="20" class="ink">{escape(self.figure.title)}</text>'
        tensors = [part for name in self.figure.places for part in self.tensor(name)]
        return "\n".join([title, *self.ways(), *tensors])


def drawing(pictures: Sequence[Picture]) -> str:
    """Return pictures side by side as one SVG."""
    width = sum(picture.figure.size[0] for picture in pictures)
    height = max(picture.figure.size[1] for picture in pictures)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(pictures[0].figure.title)}">',
        STYLE,
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>',
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6" class="back"/>',
    ]
    left = 0
    for picture in pictures:
        parts.append(f'<g transform="translate({left} 0)">\n{picture.draw()}\n</g>')
        left += picture.figure.size[0]
    return "\n".join([*parts, "</svg>"]) + "\n"


def pictures() -> dict[Path, str]:
    """Return the text of each picture, by its path."""
    return {
        ROOT / "docs" / "pictures" / f"theory_{name}.svg": drawing([Picture(figure, way) for figure, way in figures])
        for name, figures in FIGURES.items()
    }


def main() -> int:
    """Write or check the pictures."""
    return write_or_check("tools/pages/theory_pictures.py", __doc__, pictures)


if __name__ == "__main__":
    sys.exit(main())
