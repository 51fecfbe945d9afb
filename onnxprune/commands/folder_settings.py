"""Settings beside a model that state how it is built: brought into line with what was cut.

`config.json` is that of transformers (https://huggingface.co/docs/transformers/main_classes/configuration), and
`genai_config.json` that of ONNX Runtime GenAI (https://onnxruntime.ai/docs/genai/reference/config.html). Both state one
number for all layers. Where all layers keep the same count it is written; where they keep different ones no number
would be right, and it stays. What programs make inputs of (heads of the cache, their size) is what the inputs of the
file are: these stay with them. Where the vocabulary was cut, its size and the ids of special tokens follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

SETTINGS = ("config.json", "generation_config.json", "genai_config.json")
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")  # lists of ids that are never written
# What programs read of the inner width of feed-forward parts; no input of a model depends on it.
_INNER = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
_NEURONS = "neurons"


def adjusted(text: str, reports: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return settings in line with what was cut, and each change in words.

    Args:
        text: a JSON object; anything else stays as it is.
        reports: of the networks beside it, by the name of the file that leads each.
    """
    try:
        settings = json.loads(text)
    except ValueError:
        return text, []
    if not isinstance(settings, dict):
        return text, []
    changes = [*_changes(settings, reports)]
    said = [words for words, _ in changes]
    if not any(changed for _, changed in changes):
        return text, said
    end = "\n" if text.endswith("\n") else ""
    return json.dumps(settings, indent=_indent(text), ensure_ascii=False) + end, said


def _changes(settings: dict[str, Any], reports: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Change settings in place; yield each change in words, and whether it is one."""
    words = next((each for each in (report.get("vocabulary") for report in reports.values()) if each), None)
    if words is not None:
        yield from ((change, True) for change in _of_tokens(settings, words))
    for holder in _objects(settings):
        for key in _INNER:
            stated = holder.get(key)
            counts = [count for units, count in _kept(_meant(key, reports)) if units == stated]
            if not isinstance(stated, int) or isinstance(stated, bool) or not counts or set(counts) == {stated}:
                continue
            if len(set(counts)) == 1:
                holder[key] = counts[0]
                yield f"{key} {stated} became {counts[0]}", True
            else:
                listed = ", ".join(map(str, counts[:8])) + ", ..." * (len(counts) > 8)
                yield f"{key} stays {stated}: the layers keep {listed}", False


def _of_tokens(settings: dict[str, Any], words: Mapping[str, Any]) -> Iterator[str]:
    """Bring sizes of the vocabulary and ids of tokens into line, in place; yield each change in words."""
    new = {old: at for at, old in enumerate(words["kept"])}
    for holder in _objects(settings):
        for key, value in holder.items():
            after = value
            if key == "vocab_size" and value == words["before"]:
                after = words["after"]
            elif key.endswith("_token_id"):
                after = [new.get(each, each) for each in value] if isinstance(value, list) else new.get(value, value)
            elif key in _SUPPRESSED and isinstance(value, list):
                after = [new[each] for each in value if each in new]
            if after != value:
                holder[key] = after
                yield f"{key} {_shown(value)} became {_shown(after)}"


def _shown(value: Any) -> str:
    """Return a value in few words."""
    return f"{len(value)} ids" if isinstance(value, list) else str(value)


def _objects(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a JSON object and those within."""
    yield settings
    for value in settings.values():
        if isinstance(value, dict):
            yield from _objects(value)


def _meant(key: str, reports: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the reports of the networks that a key speaks of: those of an encoder, of a decoder, or all.

    >>> _meant("encoder_ffn_dim", {"encoder_model.onnx": {"a": 1}, "decoder_model.onnx": {}})
    [{'a': 1}]
    """
    part = next((part for part in ("encoder", "decoder") if key.startswith(f"{part}_")), "")
    own = [report for name, report in reports.items() if PurePosixPath(name).name.startswith(part)]
    return own or list(reports.values())


def _kept(reports: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """Return how many units each group of neurons had and has, in the order of the graphs."""
    groups = [group for report in reports for group in report["groups"] if group["kind"] == _NEURONS]
    return [(group["units"], group["kept"]) for group in groups]


def _indent(text: str) -> int | None:
    """Return how far the second line of a text is indented; None for a text of one line."""
    _, *rest = text.strip().splitlines()
    return len(rest[0]) - len(rest[0].lstrip(" ")) or 2 if rest else None
