"""Pages in a real browser, where one is found: what is seen of them, measured by a script in a copy of the page."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCHEMES = {"dark": 0, "light": 1}  # as Blink numbers them
_BUDGET_MS = 8000  # of the browser's own time
_MEASURE = Path(__file__).with_name("browser.js").read_text(encoding="utf-8")
_FRAME = """<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><body>
<pre id="measured">{{}}</pre><script>
const seen = {{}};
addEventListener("message", event => {{
  seen[event.data.key] = event.data.seen;
  document.getElementById("measured").textContent = JSON.stringify(seen);
}});
</script>{frames}"""


def seen(pages: Mapping[str, tuple[str, int]], scheme: str, folder: Path) -> dict[str, Any]:
    """Return what browser.js measures of pages, by their keys.

    Args:
        pages: HTML and the width in pixels that it is shown at, by key.
        scheme: light or dark.
        folder: for files.
    """
    frames = []
    for number, (key, (page, width)) in enumerate(pages.items()):
        script = f"<script>const KEY = {json.dumps(key)};\n{_MEASURE}</script></body>"
        copy = folder / f"{scheme}_{number}.html"
        allowed = page.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
        copy.write_text(allowed.replace("</body>", script), encoding="utf-8")
        frames.append(f'<iframe src="{copy.name}" style="border:0;width:{width}px;height:900px"></iframe>')
    whole = folder / f"{scheme}.html"
    whole.write_text(_FRAME.format(frames="\n".join(frames)), encoding="utf-8")
    measured: dict[str, Any] = {}
    for budget_ms in (_BUDGET_MS, 10 * _BUDGET_MS):  # of a busy machine, some frames may come late
        dumped = run(scheme, folder, "--dump-dom", f"--virtual-time-budget={budget_ms}", whole.as_uri())
        found = re.search(r'<pre id="measured">(.*?)</pre>', dumped, re.DOTALL)
        assert found is not None, dumped[-2000:]
        measured = json.loads(html.unescape(found[1]))
        if measured.keys() == pages.keys():
            break
    assert measured.keys() == pages.keys()
    return measured


def run(scheme: str, folder: Path, *arguments: str) -> str:
    """Run the browser without a window; return what it prints."""
    assert BROWSER is not None
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *flags, profile, f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
