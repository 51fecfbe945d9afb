"""`report`: a page of a report that was written before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxprune.commands.records.report_files import PAGES, write_text
from onnxprune.data.opening import open_ordinary
from onnxprune.errors import InputError, OptionError
from onnxprune.graph.files.publish import Reads, check_written, staging
from onnxprune.report.page.render import COMMANDS, render
from onnxprune.report.schema import checked_schema


def report_file(source: Path, target: Path, *, force: bool) -> int:
    """Write the page of the report `source` to the file `target`; return how many bytes it has.

    Raises:
        InputError: when the report cannot be read or shown, or the page cannot be written.
        OptionError: for a page that is called like another kind of file.
    """
    if target.suffix.lower() not in PAGES and not target.is_dir():
        raise OptionError(f"output must be a file that ends in .html, got {str(target)!r}")
    check_written([(target, "the page")], Reads(source), force)
    page = _page(_read(source), source)
    with staging(force) as files:
        write_text(page, target, files.add(target))
    return len(page.encode())


def _read(source: Path) -> Any:
    try:
        with open_ordinary(source) as file:
            return json.load(file)
    except (ValueError, RecursionError):
        raise InputError(f"{source}: it is no JSON; write a report with --report FILE.json") from None


def _page(report: Any, source: Path) -> str:
    if not isinstance(report, dict):
        raise InputError(f"{source}: it is no report of {COMMANDS}: write one with --report FILE.json")
    checked = checked_schema(report, source)
    try:
        return render(checked)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise InputError(
            f"{source}: it is no report that this version can show: it lacks what its page would tell of; write it "
            "again with --report FILE.json"
        ) from None
