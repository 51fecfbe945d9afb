"""Reports against their schema, which `tests/report/test_report.py` checks by itself: once, not with every report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema

from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text(encoding="utf-8"))


def strict(schema: Any) -> Any:
    """Return a schema that requires every field it names: what this release writes has all of them.

    >>> strict({"properties": {"a": {}, "b": {}}, "required": ["a"]})["required"]
    ['a', 'b']
    """
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: strict(value) for name, value in schema.items()}
    return {**inner, "required": list(schema["properties"])} if "properties" in schema else inner


_VALID = jsonschema.Draft202012Validator(SCHEMA)
_COMPLETE = jsonschema.Draft202012Validator(strict(SCHEMA))


def is_valid(report: Mapping[str, Any]) -> None:
    """Assert that a report of any minor version is as the schema says: fields that were added since may be missing."""
    _VALID.validate(report)


def follows_the_schema(report: Mapping[str, Any]) -> None:
    """Assert that a report of this release is as the schema says, with all fields that there are."""
    _COMPLETE.validate(report)
