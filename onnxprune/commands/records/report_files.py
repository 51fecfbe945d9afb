"""Reports, texts and plots, as the files that commands write beside models."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import InputError, OptionError
from onnxprune.graph.files.publish import Reads, Staging, check_written, resolved, staging
from onnxprune.report.plot import as_png, drawing_packages

PLOTS, PAGES = (".svg", ".png", ".html"), (".html", ".htm")  # what names of these files end in
_ERRORS = "backslashreplace"  # of text that is no Unicode, as a name of a file may be


@dataclass(frozen=True)
class PageFile:
    """A page of a run to write: a report as HTML, with details that a report alone has no use for."""

    path: Path
    command: str  # that was run


@dataclass(frozen=True)
class ReportFiles:
    """Where a command without a model as its output writes a plot, a report and a page, each if it has a path."""

    plot: Path | None
    report: Path | None
    force: bool  # whether files that are there may be replaced
    page: PageFile | None = None

    @property
    def outputs(self) -> list[tuple[Path, str]]:
        """The files to write, and what each is."""
        page = None if self.page is None else self.page.path
        roles = [(self.plot, "the plot"), (self.report, "the report"), (page, "the page")]
        return [(path, role) for path, role in roles if path is not None]

    def check_plot(self) -> None:
        """Raise OptionError when the plot cannot be drawn, see the function of this name."""
        check_plot(self.plot)

    def check(self, reads: Reads) -> None:
        """Raise InputError when a file must not or cannot be written; none of `reads` may be replaced."""
        check_written(self.outputs, reads, self.force)

    def write(
        self,
        report: Mapping[str, Any],
        *,
        svg: Callable[[], str],
        page: Callable[[], str],
        beside: Callable[[Staging], object] = lambda _: None,
    ) -> None:
        """Write all files, or none.

        Args:
            report: becomes JSON, and the page of a run.
            svg: draws the plot.
            page: makes an HTML page that holds it.
            beside: writes other files.

        Raises:
            InputError: when a file cannot be written.
        """
        with self.written(report) as files:
            if self.plot is not None:
                write_plot(self.plot, files.add(self.plot), svg, page)
            beside(files)

    @contextlib.contextmanager
    def written(self, report: Mapping[str, Any]) -> Iterator[Staging]:
        """Write the report and its page, in place when the block ends well.

        Raises:
            InputError: when a file cannot be written.
        """
        with staging(self.force) as files:
            if self.report is not None:
                write_report(report, self.report, files.add(self.report))
            write_page(report, self.page, files)
            yield files


def check_plot(path: Path | None) -> None:
    """Raise OptionError when a plot cannot be drawn: its suffix is none of `PLOTS`, or packages are missing."""
    if path is None:
        return
    suffix = path.suffix.lower()
    if suffix not in PLOTS:
        suffixes = f"{', '.join(PLOTS[:-1])} or {PLOTS[-1]}"
        raise OptionError(f"plot must be a file that ends in {suffixes}, got {str(path)!r}")
    if suffix == ".png":
        drawing_packages()


def write_report(report: Mapping[str, Any], path: Path, temporary: Path) -> None:
    """Write a report as JSON to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    write_text(json.dumps(report, indent=1) + "\n", path, temporary)


def write_page(report: Mapping[str, Any], page: PageFile | None, files: Staging) -> None:
    """Write the page of a report, where one is asked for.

    Raises:
        InputError: when it cannot be written.
    """
    if page is not None:
        from onnxprune.report.page.render import render  # noqa: PLC0415 - Jinja2 only where there is a page

        write_text(render(report), page.path, files.add(page.path))


def check_page(page: PageFile | None, others: Sequence[tuple[Path | None, str]], reads: Reads, force: bool) -> None:
    """Raise InputError when a page must not or cannot be written.

    Args:
        page: that was asked for, if one was.
        others: files that are written beside it, and what each is; None for those that are not.
        reads: what was read; none of it may be replaced.
        force: whether a file that is there may be replaced.
    """
    if page is None:
        return
    for other, role in others:
        if other is not None and resolved(page.path) == resolved(other):
            raise InputError(f"{page.path} is {role}; give the page another name")
    check_written([(page.path, "the page")], reads, force)


def map_file(target: Path) -> Path:
    """Return where the map of ids of a model lies: beside it.

    >>> map_file(Path("small.onnx")).name
    'small.vocabulary.json'
    """
    return target.with_suffix(".vocabulary.json")


def write_map(report: Mapping[str, Any], target: Path, files: Staging) -> None:
    """Write which new id every kept token has, by its old one, beside a model whose vocabulary was cut.

    Raises:
        InputError: when it cannot be written.
    """
    words = report.get("vocabulary")
    if words is not None:
        ids = {str(old): new for new, old in enumerate(words["kept"])}
        path = map_file(target)
        write_text(json.dumps(ids) + "\n", path, files.add(path))


def write_text(text: str, path: Path, temporary: Path) -> None:
    """Write a text to the temporary place of `path`.

    Raises:
        InputError: when it cannot be written.
    """
    _write(text.encode(errors=_ERRORS), path, temporary)


def write_plot(path: Path, temporary: Path, svg: Callable[[], str], page: Callable[[], str]) -> None:
    """Write a plot to the temporary place of `path`, in the format that its suffix names.

    Raises:
        InputError: when it cannot be written.
    """
    suffix = path.suffix.lower()
    content = (page() if suffix == ".html" else svg()).encode(errors=_ERRORS)
    _write(as_png(content.decode()) if suffix == ".png" else content, path, temporary)


def _write(content: bytes, path: Path, temporary: Path) -> None:
    try:
        temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
