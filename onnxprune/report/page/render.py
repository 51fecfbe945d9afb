"""Reports as pages: one HTML file each, with style and drawings in it; Jinja2 writes it, and escapes all that it shows.

Nothing is loaded from anywhere, and no script runs: what is switched or opened is done by the style sheet.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from onnxprune.errors import InputError
from onnxprune.report.page.cut import cut_page
from onnxprune.report.page.others import (
    compare_page,
    folder_title,
    quantize_page,
    sensitivity_page,
    sweep_page,
    tune_page,
)
from onnxprune.report.page.plain import as_read
from onnxprune.report.page.views import Note, Page, Section
from onnxprune.report.words import all_printable, plural, printable

_LONGEST = 400  # characters of a name or a reason

_KINDS = (  # a key that no other report has, and what makes its page
    ("comparisons", compare_page),
    ("members", sweep_page),
    ("lesson", tune_page),
    ("verification", cut_page),
    ("typical", sensitivity_page),
    ("quantization", quantize_page),
)
COMMANDS = "prune, quantize, compare, sensitivity, sweep or tune"
_NO_REPORT = f"it is no report of {COMMANDS}: write one with --report"


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report of any command.

    Raises:
        InputError: when it is no report of onnxprune.
    """
    return _environment().get_template("page.html").render(page=page_of(report))


def page_of(report: Mapping[str, Any]) -> Page:
    """Return what the page of a report shows.

    Raises:
        InputError: when it is no report of onnxprune.
    """
    return _page_of(as_read(_readable(dict(report))))


def _readable(value: Any) -> Any:
    r"""Return plain values whose strings are printable; the texts that went into a model keep their lines.

    >>> _readable({"values": ["1"], "text": "a\nb"}), _readable({"name": "token 5", "text": "\n"})["text"]
    ({'values': ['1'], 'text': 'a\nb'}, '\\n')
    """
    if not isinstance(value, (dict, list, tuple)):
        return all_printable(value)
    if not isinstance(value, dict):
        return [_readable(each) for each in value]
    made = {key: _readable(each) for key, each in value.items()}
    if "values" in value and isinstance(value.get("text"), str):
        made["text"] = "\n".join(map(printable, value["text"].splitlines()))
    return made


def _page_of(report: Mapping[str, Any]) -> Page:
    if "files" in report and "settings" in report:
        return _folder(report)
    make = next((make for key, make in _KINDS if key in report), None)
    if make is None:
        raise InputError(_NO_REPORT)
    return make(report)


def _folder(report: Mapping[str, Any]) -> Page:
    """Return the page of a folder: a part for each model that was pruned."""
    if not report["files"]:
        raise InputError("it is the report of a folder without a model: there is nothing to show")
    pages = [_page_of(each) for each in report["files"].values() if "copied" not in each]
    copied = [
        f"{name} was copied as it is: {each['copied']}" for name, each in report["files"].items() if "copied" in each
    ]
    lines = [Note(line) for line in (*copied, *report["settings"])]
    sections = [Section("Beside the models", "notes.html", lines)] if lines else []
    verdict = f"{plural(len(pages), 'model')} pruned: {', '.join(page.title for page in pages)}." if pages else ""
    return Page(folder_title(report), "a folder, pruned", verdict, sections, pages[0].version if pages else "", pages)


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    environment.filters["breakable"] = breakable
    return environment


def breakable(text: str) -> Markup:
    """Return a text, escaped, that may be broken behind the separators of long names, and not within options.

    What nobody reads to its end loses its middle.

    >>> print(breakable("/encoder/layer.1/<query>/MatMul"), breakable("free with --width"))
    /encoder/<wbr>layer.1/<wbr>&lt;query&gt;/<wbr>MatMul free with <span class="option">--width</span>
    """
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
    parts = re.split(r"(?<!\S)(--[a-z][a-z-]*)", shown)
    plain = [Markup("<wbr>").join(re.findall(r".{7,}?[/.:_](?=\S)|.+", part, re.DOTALL)) for part in parts[::2]]
    options = [Markup('<span class="option">{}</span>').format(part) for part in parts[1::2]]
    pairs = itertools.zip_longest(plain, options, fillvalue=Markup())
    return Markup().join(part for pair in pairs for part in pair)
