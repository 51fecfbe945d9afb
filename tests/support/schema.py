"""Reports against their schema, which `tests/report/test_report.py` checks by itself: once, not with every report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema

from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text(encoding="utf-8"))
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def follows_the_schema(report: Mapping[str, Any]) -> None:
    """Assert that a report in plain values is as the schema says."""
    _VALIDATOR.validate(report)
