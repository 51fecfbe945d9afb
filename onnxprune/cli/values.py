"""Values of options, from text to numbers, shapes, ratios and targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnxprune.errors import OptionError

PATH = click.Path(path_type=Path)
PREPROCESS = click.option(
    "--preprocess",
    metavar="TEXT",
    help="How images become arrays: imagenet, tf, unit or raw, and settings: 'imagenet,size=240'.",
)


def parse_sweep_values(given: dict[str, str | None]) -> tuple[str, list[Any]]:
    """Return the one kind of target that a family is of, and its values."""
    asked = {name: text for name, text in given.items() if text is not None}
    if len(asked) != 1:
        raise OptionError(f"give one of {', '.join(f'--{name}' for name in given)}, got {len(asked)}")
    ((name, text),) = asked.items()
    return {"ratios": "ratio"}.get(name, name), [_number(each.strip()) for each in text.split(",") if each.strip()]


def _number(text: str) -> Any:
    """Return a number, or the text where it is none: 8ms."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def parse_ratios(given: Sequence[str]) -> dict[str, Any]:
    """Split ``--ratio`` values into the common ratio and those by glob."""
    options: dict[str, Any] = {}
    by_glob: list[tuple[str, float]] = []
    for text in given:
        glob, equals, number = text.rpartition("=")
        try:
            ratio = float(number)
        except ValueError:
            ratio = None
        if ratio is None or (equals and not glob):
            raise OptionError(f"--ratio takes a number or GLOB=NUMBER, got {text!r}")
        if glob:
            by_glob.append((glob, ratio))
        else:
            options["ratio"] = ratio
    return {**options, "ratios": by_glob}


def parse_targets(given: Sequence[str]) -> dict[str, str]:
    """Split ``--target`` values into what is bounded, and a fraction or an amount."""
    found: dict[str, str] = {}
    for text in given:
        for each in text.split(","):
            name, equals, value = each.partition("=")
            if not equals:
                raise OptionError(f"--target takes KIND=VALUE such as macs=0.7 or latency=8ms, got {each!r}")
            name = name.strip()
            if name in found:
                raise OptionError(f"--target {name} is given twice, as {found[name]} and {value.strip()}: give one")
            found[name] = value.strip()
    return found


def parse_step(given: str | None) -> int | str | None:
    """Return the value of ``--round-to``: a number, or a word that the options know or refuse."""
    return int(given) if given is not None and given.lstrip("-").isdigit() else given


def parse_shapes(given: Sequence[str]) -> dict[str, list[int]]:
    """Split ``--input`` values into the name of an input and its shape."""
    found: dict[str, list[int]] = {}
    for text in given:
        name, _, dims = text.rpartition("=")
        try:
            found[name] = [int(dim) for dim in dims.split(",")]
        except ValueError:
            found.pop(name, None)
        if not name or name not in found:
            raise OptionError(f"--input takes NAME=SHAPE such as x=1,3,224,224, got {text!r}")
    return found


def parse_numbers(name: str, text: str) -> list[int]:
    """Split a list of counts."""
    try:
        return [int(each) for each in text.split(",")] if text else []
    except ValueError:
        raise OptionError(f"{name} takes whole numbers such as 1,2,4, got {text!r}") from None


def parse_provider_options(given: Sequence[str]) -> dict[str, str]:
    """Split ``--provider-option`` values into keys and values."""
    for text in given:
        if not text.partition("=")[0] or "=" not in text:
            raise OptionError(f"--provider-option takes KEY=VALUE, got {text!r}")
    return {text.partition("=")[0]: text.partition("=")[2] for text in given}
