"""Graphs that do not export or do not run, with the reasons; tools/export_zoo.py lists them all the same."""

from __future__ import annotations

KNOWN: dict[str, str] = {}
