"""What ``onnxprune prune`` prints of a folder: a part for each model, then what became of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.report.prune import prune_tables

if TYPE_CHECKING:
    from rich.console import RenderableType


def folder_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return what the command line prints after a run over a folder."""
    return list(_parts(report))


def _parts(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    for name, each in report["files"].items():
        if "copied" in each:
            yield f"{name} was copied as it is: {each['copied']}"
            continue
        if len(report["files"]) > 1:
            yield name
        yield from prune_tables(each)
    yield from report["settings"]
    yield f"{report['output']}: written, with all that lies beside the models"
