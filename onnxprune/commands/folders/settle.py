"""What lies beside the models of a pruned folder, brought into line with what was cut of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.commands.beside.ids_in_settings import SETTINGS
from onnxprune.commands.beside.settings import CacheSizes, adjusted
from onnxprune.commands.beside.text_files import json_of, texts_within
from onnxprune.commands.beside.tokenizer import folder_of, reduced
from onnxprune.errors import InputError, OptionError

_OF_TEXTS = "generation_config.json"  # says how texts are written, and nothing of caches


@dataclass(frozen=True)
class PrunedFile:
    """One model of a folder."""

    name: str  # its path in the folder
    report: dict[str, Any] | None  # see docs/report.md; None: it was copied as it is
    why: str | None = None  # it was copied
    leads: bool = False  # whether other files follow it, or it is a network of its own
    by_body: bool = False  # whether its network was cut as a body of it was
    caches: tuple[CacheSizes, ...] = ()  # what became of its inputs that hold the past
    knows_tokens: bool = False  # whether it takes ids, or scores the tokens of another file
    rest: str | None = None  # why tokens alone went, where more was asked for


def settle(whole: Path, files: Sequence[PrunedFile]) -> Iterator[str]:
    """Bring settings into line with what was cut; yield what was changed.

    Settings speak of the models in their folder and below, where no others are nearer.
    """
    for name in SETTINGS:
        found = sorted(path for path in whole.rglob(name) if path.is_file())
        for path in found:
            own = [each for each in files if _nearest(whole / each.name, found) == path]
            reports = {each.name: each.report for each in own if each.report is not None and each.leads}
            caches = [cache for each in own for cache in each.caches if name != _OF_TEXTS]
            try:
                text, changes = adjusted(_text(path), reports, caches)
            except OptionError as error:
                raise OptionError(f"{path.relative_to(whole)}: {error}") from None
            except InputError as error:
                yield f"{path.relative_to(whole)} {str(error).removeprefix(f'{path} ')}: it stays as it is"
                continue
            if changes:
                path.write_text(text, encoding="utf-8")
                yield from (f"{path.relative_to(whole)}: {change}" for change in changes)


def _text(path: Path) -> str:
    """Return the text of settings.

    Raises:
        InputError: for a file that cannot be read, or holds more than is read of a file.
    """
    text = texts_within(path.parent, [path.name])[path.name]
    with contextlib.suppress(ValueError):  # what is no JSON is not understood, and stays
        json_of(path, text)
    return text


def settle_tokens(whole: Path, files: Sequence[PrunedFile]) -> Iterator[str]:
    """Reduce the tokenizers of models whose vocabulary was cut; yield what was done."""
    done: set[Path] = set()
    for each in files:
        if each.rest is not None:
            yield f"{each.name} loses tokens alone: {each.rest}"
        words = each.report and each.report.get("vocabulary")
        folder = folder_of(whole / each.name)
        if words and folder is not None and folder not in done:
            done.add(folder)
            yield from reduced(folder, words["kept"])
        elif words and folder is None:
            yield f"{each.name}: no tokenizer lies beside it: whoever calls it applies the map of ids"


def _nearest(model: Path, settings: Sequence[Path]) -> Path | None:
    above = [path for path in settings if path.parent in model.parents]
    return max(above, key=lambda path: len(path.parts), default=None)
