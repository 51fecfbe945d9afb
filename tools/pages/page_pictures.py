"""Pictures of pages of runs, for docs/page.md: ``python tools/pages/page_pictures.py FOLDER NAME=REPORT.json ...``.

Each report is made a page, which a browser without a window (Chromium) shows 1,280 and 400 pixels wide, from its top
and from its samples on, and a table says how large it is and how long it took to make. The reports come from
``--report FILE.json --report FILE.html``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from onnxprune.report.page.render import render
from tests.support.browser import run

WIDTHS = {1280: 1500, 400: 1500}  # pixels across, and how many of them from the top
SAMPLES = 700  # pixels of the samples from their heading on, 1,280 across
COLOURS = 160  # of a picture, so that it is small
RUNS = 5  # of which the fastest counts


def main() -> None:
    """Draw the pictures, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("reports", nargs="+", metavar="NAME=REPORT.json")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print("| page | layers | groups | report, kB | page, kB | made in, ms |\n| --- | --- | --- | --- | --- | --- |")
    for text in arguments.reports:
        name, _, path = text.partition("=")
        print(_row(name, Path(path), arguments.folder))


def _row(name: str, path: Path, folder: Path) -> str:
    """Draw the pictures of a report; return its row of the table."""
    text = path.read_text(encoding="utf-8")
    report = json.loads(text)
    if report["details"] is None:
        raise SystemExit(f"{path}: it has no details: write it with a page beside it, --report FILE.html")
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        page = render(report)
        times.append(time.perf_counter() - start)
    for width, height in WIDTHS.items():
        _draw(page, width, height, folder / f"page_{name}_{width}.png")
    if "<h2>On samples</h2>" in page:
        _draw(_from_samples(page), 1280, SAMPLES, folder / f"page_{name}_samples.png")
    sizes = f"{len(text) / 1000:.0f} | {len(page.encode()) / 1000:.0f}"
    layers = len(report["details"]["layers"])
    return f"| {name} | {layers} | {len(report.get('groups', ()))} | {sizes} | {1000 * min(times):.0f} |"


def _from_samples(page: str) -> str:
    """Return a page without what stands in front of its samples."""
    return re.sub(r"(<main>).*?(<section>\s*<h2>On samples</h2>)", r"\1\2", page, count=1, flags=re.DOTALL)


def _draw(page: str, width: int, height: int, target: Path) -> None:
    """Draw the top of a page; a frame makes it narrow, as windows have a least width."""
    from PIL import Image

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        place = Path(scratch)
        (place / "page.html").write_text(page, encoding="utf-8")
        frame = f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:{height}px">'
        (place / "frame.html").write_text(f"<!DOCTYPE html>{frame}</iframe></body>", encoding="utf-8")
        shot = place / "shot.png"
        size = f"--window-size={max(width, 500)},{height}"
        run("light", place, size, f"--screenshot={shot}", (place / "frame.html").as_uri())
        with Image.open(shot) as image:
            image.convert("RGB").crop((0, 0, width, height)).quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main()
