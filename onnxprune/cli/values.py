"""Parsers of option values: from text to numbers, shapes, ratios and targets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.errors import OptionError

if TYPE_CHECKING:
    from onnxprune.commands.records.report_files import PageFile


def parse_reports(paths: Sequence[Path]) -> tuple[Path | None, PageFile | None]:
    """Split ``--report`` values into the file for JSON and the page, by their suffixes.

    Raises:
        OptionError: for two files of a kind.
    """
    from onnxprune.commands.records.report_files import PAGES, PageFile

    pages = [path for path in paths if path.suffix.lower() in PAGES]
    reports = [path for path in paths if path not in pages]
    for given, what in ((pages, "page"), (reports, "file for JSON")):
        if len(given) > 1:
            raise OptionError(f"--report takes one {what}, got {given[0]} and {given[1]}")
    command = shlex.join(["onnxprune", *sys.argv[1:]])
    return next(iter(reports), None), PageFile(pages[0], command) if pages else None


def parse_sweep_values(texts: dict[str, str | None]) -> tuple[str, list[Any]]:
    """Return the one kind of target that has values, and these; `texts` has all kinds, None for those without.

    Raises:
        OptionError: when none or several have values.
    """
    with_values = {name: text for name, text in texts.items() if text is not None}
    if len(with_values) != 1:
        given = " and ".join(f"--{name}" for name in with_values) or "none"
        raise OptionError(f"give one of {', '.join(f'--{name}' for name in texts)}, got {given}")
    ((name, text),) = with_values.items()
    return {"ratios": "ratio"}.get(name, name), [_number(each.strip()) for each in text.split(",") if each.strip()]


def _number(text: str) -> Any:
    """Return a number, or the text where it is none: 8ms."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def parse_ratios(texts: Sequence[str]) -> dict[str, Any]:
    """Split ``--ratio`` values into the common ratio and those by glob.

    Raises:
        OptionError: for a text that is no number and no GLOB=NUMBER.
    """
    options: dict[str, Any] = {}
    by_glob: list[tuple[str, float]] = []
    for text in texts:
        glob, equals, number = text.rpartition("=")
        try:
            ratio = float(number)
        except ValueError:
            ratio = None
        if ratio is None or (equals and not glob):
            raise OptionError(f"--ratio takes a number such as 0.3, or GLOB=NUMBER, got {text!r}")
        if glob:
            by_glob.append((glob, ratio))
        else:
            options["ratio"] = ratio
    return {**options, "ratios": by_glob}


def parse_targets(texts: Sequence[str]) -> dict[str, str]:
    """Split ``--target`` values into what is bounded, and a fraction or an amount.

    Raises:
        OptionError: for a text that is no KIND=VALUE, and for a kind that is given twice.
    """
    targets: dict[str, str] = {}
    for text in texts:
        for each in text.split(","):
            name, equals, value = each.partition("=")
            if not equals:
                raise OptionError(f"--target takes KIND=VALUE such as macs=0.7 or latency=8ms, got {each!r}")
            name = name.strip()
            if name in targets:
                raise OptionError(f"--target {name} is given twice, as {targets[name]} and {value.strip()}: give one")
            targets[name] = value.strip()
    return targets


def parse_step(text: str | None) -> int | str | None:
    """Return the value of ``--round-to``: a number, or a word that the options know or refuse."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def parse_depth(text: str | None) -> float | str | None:
    """Return the value of ``--depth``: a number, or a word that the options know or refuse."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def parse_shapes(texts: Sequence[str]) -> dict[str, list[int]]:
    """Split ``--input`` values into the name of an input and its shape.

    Raises:
        OptionError: for a text that is no NAME=SHAPE.
    """
    shapes: dict[str, list[int]] = {}
    for text in texts:
        name, _, dims = text.rpartition("=")
        try:
            shapes[name] = [int(dim) for dim in dims.split(",")]
        except ValueError:
            shapes.pop(name, None)
        if not name or name not in shapes:
            raise OptionError(f"--input takes NAME=SHAPE such as x=1,3,224,224, got {text!r}")
    return shapes


def parse_numbers(name: str, text: str) -> list[int]:
    """Split a list of counts.

    Raises:
        OptionError: for a text of anything but whole numbers and commas.
    """
    try:
        return [int(each) for each in text.split(",")] if text else []
    except ValueError:
        raise OptionError(f"{name} takes whole numbers such as 1,2,4, got {text!r}") from None


def parse_provider_options(texts: Sequence[str]) -> dict[str, str]:
    """Split ``--provider-option`` values into keys and values.

    Raises:
        OptionError: for a text that is no KEY=VALUE.
    """
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise OptionError(f"--provider-option takes KEY=VALUE, got {text!r}")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}
