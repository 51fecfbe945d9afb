"""Where things lie that several tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MODELS = ROOT / "models"
GOLDEN = ROOT / "tests" / "golden"
ZOO = ROOT / "tests" / "zoo"
