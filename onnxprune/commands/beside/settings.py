"""Settings beside a model that state how it is built: brought into line with what was cut.

`config.json` is that of transformers (https://huggingface.co/docs/transformers/main_classes/configuration), and
`genai_config.json` that of ONNX Runtime GenAI (https://onnxruntime.ai/docs/genai/reference/config.html). Both state one
number for all layers. Where all layers keep the same count it is written; where they keep different ones no number
would be right, and it stays. What programs make inputs of (heads of the cache, their size) is what the inputs of the
file are: these stay with them, and follow where caches were cut. Where the vocabulary was cut, its size and the ids
of special tokens follow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from onnxprune.commands.beside.ids_in_settings import UNMAPPED, objects, places
from onnxprune.commands.beside.tokenizer_files import dumped
from onnxprune.errors import OptionError

# What programs read of the inner width of feed-forward parts; no input of a model depends on it.
_INNER = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim")
# What programs read of how many experts a layer has.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_SIZES = ("vocab_size", "decoder_vocab_size")  # how many tokens there are
# What programs read of caches, and which of the sizes that their dims state it is: heads come first, their size last.
_OF_CACHES = {"num_key_value_heads": 0, "num_kv_heads": 0, "head_dim": -1, "head_size": -1}
_HEADS = tuple(key for key, at in _OF_CACHES.items() if at == 0)
_WHO = (
    "ONNX Runtime GenAI reads it off the model, layer by layer; programs that make inputs by such a number, as Optimum "
    "and transformers.js do, cannot run the model"
)
_WHO_OF_LAYERS = (
    "ONNX Runtime GenAI and Optimum read it off the model; programs that make inputs by such a number, as "
    "transformers.js does, cannot run the model"
)
_WHO_OF_TURNS = (
    "Programs that go by names of inputs can run the model. Optimum cannot: it gives back caches of the text itself"
    " and of the text beside it in turns, in their order; name both attentions of a layer (--without) for it"
)

_INPUTS = "inputs that hold the past"

Dims: TypeAlias = Sequence[int | str | None]


@dataclass(frozen=True)
class CacheSizes:
    """What became of an input that is a cache."""

    before: Dims
    after: Dims | None  # None: it is gone
    file: str = ""  # that has the input
    is_beside: bool = False  # whether it holds what is kept of another text, that is read beside

    def count(self, at: int) -> tuple[int, int] | None:
        """Return a size that the dims state before and after, behind that of the samples; None where one lacks."""
        old, new = ([dim for dim in dims[1:] if isinstance(dim, int)] for dims in (self.before, self.after or ()))
        return (old[at], new[at]) if old and len(old) == len(new) else None


def adjusted(
    text: str, reports: Mapping[str, Mapping[str, Any]], caches: Sequence[CacheSizes] = ()
) -> tuple[str, list[str]]:
    """Return settings in line with what was cut, and each change in words.

    Args:
        text: a JSON object; anything else stays as it is.
        reports: of the networks beside it, by the name of the file that leads each.
        caches: of all models beside it.

    Raises:
        OptionError: where a setting names a token that is gone.
    """
    try:
        settings = json.loads(text)
    except ValueError:
        return text, []
    if not isinstance(settings, dict):
        return text, []
    changes = [*_changes(settings, reports), *_of_caches(settings, caches)]
    said = [words for words, _ in changes]
    if not any(changed for _, changed in changes):
        return text, said
    end = "\n" if text.endswith("\n") else ""
    return dumped(settings, _indent(text)) + end, said


def _changes(settings: dict[str, Any], reports: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Change settings in place; yield each change in words, and whether it is one."""
    words = next((each for each in (report.get("vocabulary") for report in reports.values()) if each), None)
    if words is not None:
        yield from _of_tokens(settings, words)
    for holder in objects(settings):
        for key in _INNER:
            yield from _set(holder, key, _kept(_meant(key, reports), "neurons"))
        for key in _EXPERTS:
            yield from _set(holder, key, _kept(_meant(key, reports), "experts"))


def _set(holder: dict[str, Any], key: str, counts: Sequence[tuple[int, int]], *who: str) -> Iterator[tuple[str, bool]]:
    """Give a setting the count that all keep; yield what came of it in words, and whether it changed.

    Nothing comes of it where none lost something.

    Args:
        holder: of the setting, changed in place.
        key: its name.
        counts: units before and after, of each layer; those with other units than the setting states are not meant.
        who: keeps them, where that are no layers, and which programs are touched by different counts.
    """
    stated = holder.get(key)
    kept = [after for before, after in counts if before == stated]
    if not isinstance(stated, int) or isinstance(stated, bool) or not kept or set(kept) == {stated}:
        return
    if len(set(kept)) == 1:
        holder[key] = kept[0]
        yield f"{key} {stated} became {kept[0]}", True
    else:
        listed = ", ".join(map(str, kept[:8])) + ", ..." * (len(kept) > 8)
        keepers, *touched = who or ("layers",)
        yield ". ".join([f"{key} stays {stated}: the {keepers} keep {listed}", *touched]), False


def _of_caches(settings: dict[str, Any], caches: Sequence[CacheSizes]) -> Iterator[tuple[str, bool]]:
    """Change what settings state of caches in place; yield each change in words, and whether it is one."""
    holders = [*objects(settings)]
    for holder in holders:
        for key, at in _OF_CACHES.items():
            yield from _set(
                holder, key, [count for each in caches if (count := each.count(at)) is not None], _INPUTS, _WHO
            )
    heads = [count for each in caches if (count := each.count(0)) is not None]
    if any(before != after for before, after in heads) and not any(
        key in holder for holder in holders for key in _HEADS
    ):
        yield f"nothing states the heads of keys and values apart from those of queries. {_WHO}", False
    gone = sum(each.after is None for each in caches)
    if gone:
        yield (
            f"{gone} of {len(caches)} inputs that hold the past are gone, the number of layers stays. "
            f"{_WHO_OF_LAYERS if _takes_turns(caches) else _WHO_OF_TURNS}",
            False,
        )


def _takes_turns(caches: Sequence[CacheSizes]) -> bool:
    """Whether, in each file, what is left of both attentions comes in turns, in pairs of keys and values.

    Optimum gives caches back so, whatever layers they are of: those of the own text, as long as there are some those of
    the other one behind each pair (`ORTDecoderForSeq2Seq.forward`, optimum-onnx 0.1).

    >>> own, other = CacheSizes((), ()), CacheSizes((), (), is_beside=True)
    >>> [_takes_turns(left) for left in ([own, own, other, other, own, own], [own, own, own, own, other, other])]
    [True, False]
    """
    files: dict[str, list[bool]] = {}
    for each in (each for each in caches if each.after is not None):
        files.setdefault(each.file, []).append(each.is_beside)
    counts = ((left, left.count(False), left.count(True)) for left in files.values())
    return all(own >= others and left == _in_turns(own, others) for left, own, others in counts)


def _in_turns(own: int, others: int) -> list[bool]:
    """Return in which order caches of so many inputs are given back: whether each is one of the other text."""
    keys = sorted([(at // 2, False) for at in range(own)] + [(at // 2, True) for at in range(others)])
    return [is_other for _, is_other in keys]


def _of_tokens(settings: dict[str, Any], words: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Bring sizes of the vocabulary and ids of tokens into line, in place; yield words, and whether they tell a change.

    Raises:
        OptionError: where a token is gone that programs cannot do without.
    """
    ids = {old: at for at, old in enumerate(words["kept"])}

    def new(old: int) -> int | None:
        return ids.get(old) if 0 <= old < words["before"] else old

    for holder in objects(settings):
        for key, value in holder.items():
            if key in _SIZES and value == words["before"]:
                holder[key] = words["after"]
                yield f"{key} {value} became {words['after']}", True
            elif key in UNMAPPED and value:
                yield f"{key} stays, with old ids: its form is not followed. Change it by the map of ids", False
    for place in places(settings):
        before, after = place.holder[place.key], place.mapped(new)
        gone = sorted(each for each in place.ids if new(each) is None) if place.is_needed else []
        if gone:
            raise OptionError(f"vocabulary: {place.key} names token {gone[0]}, which is not kept: keep it as well")
        if after != before:
            place.holder[place.key] = after
            yield f"{place.key} {_shown(before)} became {_shown(after)}", True


def _shown(value: Any) -> str:
    """Return a value in few words."""
    return f"{len(value)} ids" if isinstance(value, (list, dict)) else str(value)


def _meant(key: str, reports: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the reports of the networks that a key speaks of: those of an encoder, of a decoder, or all.

    >>> _meant("encoder_ffn_dim", {"encoder_model.onnx": {"a": 1}, "decoder_model.onnx": {}})
    [{'a': 1}]
    """
    part = next((part for part in ("encoder", "decoder") if key.startswith(f"{part}_")), "")
    own = [report for name, report in reports.items() if PurePosixPath(name).name.startswith(part)]
    return own or list(reports.values())


def _kept(reports: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[int, int]]:
    """Return how many units each group of a kind had and has, without those of layers that are gone."""
    groups = [group for report in reports for group in report["groups"] if group["kind"] == kind]
    return [(group["units"], group["kept"]) for group in groups if group["kept"]]


def _indent(text: str) -> int | None:
    """Return how far the second line of a text is indented; None for a text of one line."""
    _, *rest = text.strip().split("\n")
    return len(rest[0]) - len(rest[0].lstrip(" ")) or 2 if rest else None
