"""The version of the form of reports, and what a reader makes of another one; docs/report.md has the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.errors import InputError

SCHEMA = "1.1"  # of docs/report.schema.json: what may differ between two minor versions, and what may not


def checked_schema(report: Mapping[str, Any], where: object) -> Mapping[str, Any]:
    """Return a report, unless its form may mean something else: one of another major version.

    Reports of before there were versions have none; their fields mean what those of version 1 do.

    Args:
        report: as it was read.
        where: the path of its file, or the argument that it is, for the message.

    Raises:
        InputError: when it is of another major version, or states none that is one.
    """
    stated = report.get("schema", SCHEMA)
    major = SCHEMA.partition(".")[0]
    if not isinstance(stated, str) or stated.partition(".")[0] != major:
        raise InputError(
            f"{where}: the report has schema {stated!r}, and this release reads {major}.x: write it anew with --report "
            "of prune, or use the release of onnxprune that wrote it"
        )
    return report
