"""Contents as a recording keeps them: digests, and texts that can be shown again."""

from __future__ import annotations

import base64
import gzip
import hashlib


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def kept_text(text: str) -> dict[str, str]:
    """Return a text as it is kept: its digest, and the text itself."""
    return {"sha256": digest(text.encode()), "shown": packed(text)}


def packed(text: str) -> str:
    """Return a text in few characters."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def unpacked(text: str) -> str:
    """Return the text again."""
    return gzip.decompress(base64.b64decode(text)).decode()
