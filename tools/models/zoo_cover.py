"""Choose the graphs of tests/zoo that every run of the tests proves, and write their names to tests/zoo/cover.json.

    python tools/models/zoo_cover.py

All graphs are read and traced, which takes two minutes; the rule is that of tests/support/zoo_cover.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support import zoo_cover, zoo_store  # noqa: E402


def main() -> None:
    """Write the cover."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    entries = zoo_store.load_zoo()
    features = {name: zoo_cover.all_features(entry) for name, entry in entries.items()}
    names = zoo_cover.cover(features, entries)
    zoo_cover.save_cover(names)
    print(f"{len(names)} of {len(entries)} graphs have all {len(set().union(*features.values()))} features")


if __name__ == "__main__":
    main()
