"""What a page is made of: plain values that templates show; nothing here knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    title: str
    template: str  # the file in templates/ that shows it
    view: Any  # what the template shows
    lead: str = ""  # a sentence or two above it


@dataclass(frozen=True)
class Page:
    """The page of a run."""

    title: str
    kicker: str  # what was done, above the title
    verdict: str  # one sentence
    sections: Sequence[Section]
    version: str  # of the program that wrote the report
    parts: Sequence[Page] = ()  # of a folder: a page for each model


@dataclass(frozen=True)
class Fact:
    """One row of the table of both models."""

    label: str
    before: str
    after: str
    change: str
    share: float | None = None  # of the original that is left, for a bar; None draws none


@dataclass(frozen=True)
class Table:
    """A table of texts; what is behind the first rows is folded away."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)  # columns that hold names and words
    shown: int = 12  # rows that are always seen
    left_out: int = 0  # rows that only the JSON report has


@dataclass(frozen=True)
class Note:
    """A text of one or several lines, or a table."""

    text: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Line:
    """One line of a chart, in its own coordinates."""

    points: str  # of a polyline
    dots: Sequence[tuple[float, float, str]]  # with what each says
    name: str = ""
    colour: int = 0  # of those that the style sheet numbers


@dataclass(frozen=True)
class Tick:
    """A line of the grid with its number."""

    at: float
    words: str


@dataclass(frozen=True)
class Chart:
    """A small chart; all places are in units of its drawing."""

    title: str
    note: str  # under the title
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    y_label: str
    width: int
    height: int
    left: int  # where the plot begins
    bottom: int
    mark: float | None = None  # where a vertical line says what was done
    tone: str = ""  # class of the style sheet for the colour of the first line


@dataclass(frozen=True)
class Charts:
    """Charts side by side; those behind the first are a table."""

    charts: Sequence[Chart]
    rest: Table | None = None
    legend: Sequence[tuple[str, int]] = ()  # names with their colours


@dataclass(frozen=True)
class Bar:
    """Two bars, before and after."""

    label: str
    note: str
    before: float  # of 100, the longest one
    after: float
    before_text: str
    after_text: str


@dataclass(frozen=True)
class Proof:
    """What was held against what."""

    passed: bool
    sentence: str
    figures: Sequence[tuple[str, str]]
    runs: Table


@dataclass(frozen=True)
class Again:
    """How to make a run again."""

    command: str
    recipe: str  # for onnxprune run
    figures: Sequence[tuple[str, str]]
    files: Table
    options: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Box:
    """A box on a picture, in hundredths of its sides."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True)
class Answer:
    """What one model says of a sample."""

    name: str  # before or after
    best: Sequence[tuple[str, str]]  # a name and its score
    boxes: Sequence[Box]
    image: str | None
    right: bool | None  # whether the first name is the label, where both are known


@dataclass(frozen=True)
class Sample:
    """A sample with the answers of both models."""

    title: str
    image: str | None
    text: str | None  # of ids
    values: str
    note: str
    answers: Sequence[Answer]
    finds_boxes: bool  # whether answers are boxes
    differ: bool  # whether the first answers differ


@dataclass(frozen=True)
class Samples:
    """A handful of samples."""

    figures: Sequence[tuple[str, str]]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Cost:
    """A cost of a part of the network, before and after."""

    before: float
    after: float
    text: str  # both in words
    width: float = 0.0  # of 100, the most expensive row
    kept: float = 0.0  # of 100, likewise


@dataclass(frozen=True)
class LayerView:
    """One layer of a row."""

    node: str
    op: str
    shapes: str
    costs: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One row of the picture: a group with the layers that make its units, or a layer that no group has."""

    number: int
    name: str
    kind: str
    units: str  # before and after
    tone: str  # class of its colour
    says: str  # what the colour means, in words
    reason: str  # why it stayed whole; empty where it lost units
    frees: str
    costs: Mapping[str, Cost]
    layers: Sequence[LayerView]
    more_layers: int = 0


@dataclass(frozen=True)
class Block:
    """Rows that follow each other."""

    name: str
    costs: Mapping[str, Cost]
    rows: Sequence[Row]  # those that the page has
    more: int = 0  # that only the JSON report has


@dataclass(frozen=True)
class Column:
    """A column of the overview: x, width, and for each measure the heights of all and of what is kept."""

    x: float
    width: float
    row: int | None  # that it leads to
    tone: str
    words: str
    heights: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Network:
    """The picture of a network."""

    measures: Sequence[tuple[str, str]]  # key and name of what rows may cost
    blocks: Sequence[Block]
    columns: Sequence[Column]
    legend: Sequence[tuple[str, str]]  # class and words of the colours that occur
    folded: bool  # whether rows are folded into blocks
    called: str = "groups"  # what rows are
