"""Files that commands write beside models: reports, texts, plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.data.samples import files_of
from onnxprune.errors import InputError, OptionError
from onnxprune.planning.options import Options
from onnxprune.report.plot import as_png, drawing_packages

PLOTS = (".svg", ".png", ".html")


def check_plot(path: Path | None) -> None:
    """Raise OptionError when a plot cannot be drawn: by the name of its file, or because packages are missing."""
    if path is None:
        return
    if path.suffix.lower() not in PLOTS:
        raise OptionError(f"plot must be a file that ends in {', '.join(PLOTS[:-1])} or {PLOTS[-1]}, got {str(path)!r}")
    if path.suffix.lower() == ".png":
        drawing_packages()


def write_plot(path: Path, temporary: Path, svg: Callable[[], str], page: Callable[[], str]) -> None:
    """Write a chart, or a page that holds it, as the name of the file asks for."""
    kind = path.suffix.lower()
    drawn = page() if kind == ".html" else svg()
    _write(as_png(drawn) if kind == ".png" else drawn.encode(), path, temporary)


def write_report(report: Mapping[str, Any], path: Path, temporary: Path) -> None:
    """Write a report to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    write_text(json.dumps(report, indent=1) + "\n", path, temporary)


def write_text(text: str, path: Path, temporary: Path) -> None:
    """Write a text to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    _write(text.encode(), path, temporary)


def _write(content: bytes, path: Path, temporary: Path) -> None:
    try:
        temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def sample_files(data: Any, options: Options) -> tuple[Path, ...]:
    """Return the files that hold samples."""
    return (*files_of(data), *files_of(options.eval_data))
