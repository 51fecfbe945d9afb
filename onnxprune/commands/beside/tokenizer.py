"""Tokenizers beside a model, brought into line with a smaller vocabulary.

What other formats hold (`tokenizer.model`, of SentencePiece) stays: whoever calls the model applies the map of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from onnxprune.commands.beside.tokenizer_files import (
    ADDED,
    BY_TEXT,
    CONFIG,
    LINES,
    MERGES,
    TOKENIZER,
    TokenizerFiles,
    added_of,
    dumped,
    is_merge,
    pair_of,
    processors_of,
    read_tokenizer,
    symbols_of_bytes,
    vocabulary_of,
)
from onnxprune.errors import InputError, OptionError

_NAMES = (TOKENIZER, LINES, BY_TEXT, CONFIG)
_OTHERS = ("*.model", "*.spm", "*.tiktoken", "sentencepiece.bpe.*")  # formats that are not written
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # what byte_fallback makes of text without tokens of its own


# -- what is known of tokens -----------------------------------------------------------------------------------


def ids_of(tokens: Sequence[int | str], folder: Path | None) -> set[int]:
    """Return ids of tokens, of which those that are text are looked up in the tokenizer of a folder.

    Raises:
        OptionError: for text that is no token, and where there is no tokenizer that could be read.
    """
    texts = [each for each in tokens if isinstance(each, str)]
    ids = {each for each in tokens if not isinstance(each, str)}
    if not texts:
        return ids
    known = {} if folder is None else _read(folder).known
    if not known:
        raise OptionError(
            f"vocabulary: {texts[0]!r} is no id, and no {TOKENIZER}, vocab.txt or vocab.json beside the model tells "
            "the ids of tokens: give ids"
        )
    missing = [text for text in texts if text not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise OptionError(f"vocabulary: the tokenizer in {folder} has no token {missing[0]!r}{more}")
    return ids | {known[text] for text in texts}


def _read(folder: Path) -> TokenizerFiles:
    """Return what the files of a tokenizer hold.

    Raises:
        OptionError: for a file that does not hold what it should; it names the file.
    """
    try:
        return read_tokenizer(folder)
    except InputError as error:
        advice = "mend it, or take it away and apply the map of ids to what it gives"
        raise OptionError(f"vocabulary: {error}: {advice}") from None


def folder_of(model: Path | None) -> Path | None:
    """Return the folder with the tokenizer of a model: its own, or the one above a folder `onnx`; None without one."""
    above = [] if model is None else [model.parent]
    if model is not None and model.absolute().parent.name == "onnx":  # which `m.onnx` alone does not tell
        above.append(model.absolute().parent.parent)
    return next((folder for folder in above if any((folder / name).is_file() for name in _NAMES)), None)


def needed(folder: Path, ids: Iterable[int]) -> set[int]:
    """Return the ids that a folder cannot do without, where some are kept.

    These are added and special tokens, those of single bytes, and the parts that a tokenizer merges into kept ones:
    without these it could not make them. So a text all of whose tokens are kept is split as before, and one with
    others still has tokens.

    Raises:
        OptionError: for a file that does not hold what it should; it names the file.
    """
    files = _read(folder)
    known, found = files.known, set((files.added or {}).values())
    if files.stated is not None:
        model = files.stated["model"]
        found.update(each["id"] for each in added_of(files.stated))
        padding = files.stated.get("padding")
        others = (known.get(model.get("unk_token") or ""), model.get("unk_id"), (padding or {}).get("pad_id"))
        found.update(each for each in others if isinstance(each, int))
        found.update(_around(files.stated.get("post_processor")))
    found.update(int(each) for each in (files.config or {}).get("added_tokens_decoder") or ())
    texts = chain(files.special_texts, _of_bytes(files))
    found.update(known[text] for text in texts if text in known)
    return found | _parts(known, files.merges, {*ids, *found}, _prefix(files.stated))


def _of_bytes(files: TokenizerFiles) -> Iterator[str]:
    """Yield the tokens of single bytes that a tokenizer makes of any text, some of which it may lack.

    A vocab.json without tokenizer.json is made of bytes where it has a symbol for each of them.
    """
    if files.stated is None:
        symbols = set(symbols_of_bytes().values())
        yield from symbols if files.lines is None and symbols <= files.known.keys() else ()
        return
    parts = (files.stated.get("pre_tokenizer"), files.stated.get("decoder"))
    if any(each.get("type") == "ByteLevel" for part in parts for each in processors_of(part)):
        end = files.stated["model"].get("end_of_word_suffix") or ""
        yield from (symbol + suffix for symbol in symbols_of_bytes().values() for suffix in {"", end})
    if files.stated["model"].get("byte_fallback"):
        yield from _BYTES


def _prefix(stated: Mapping[str, Any] | None) -> str:
    """Return what the second part of a merge begins with, and loses."""
    prefix = None if stated is None else stated["model"].get("continuing_subword_prefix")
    return prefix if isinstance(prefix, str) else ""


def _joined(pair: tuple[str, str], prefix: str) -> str:
    """Return what a pair becomes.

    >>> _joined(("ab", "##c"), "##")
    'abc'
    """
    return pair[0] + pair[1].removeprefix(prefix)


def _parts(known: Mapping[str, int], merges: Sequence[tuple[str, str]], ids: set[int], prefix: str) -> set[int]:
    """Return the ids of all that kept tokens are merged from, themselves among them."""
    sources: dict[str, list[tuple[str, str]]] = {}
    for pair in merges:
        sources.setdefault(_joined(pair, prefix), []).append(pair)
    waiting = [text for text, each in known.items() if each in ids]
    seen = set(waiting)
    while waiting:
        parts = {part for pair in sources.get(waiting.pop(), ()) for part in pair} - seen
        seen |= parts
        waiting.extend(parts)
    return {known[text] for text in seen if text in known}


# -- smaller files ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fewer:
    """Tokens that are left."""

    ids: Mapping[int, int]  # new by old

    def ids_by_text(self, known: Mapping[str, int]) -> dict[str, int]:
        """Return the new ids of the texts that are left, in their order."""
        left = {text: self.ids[each] for text, each in known.items() if each in self.ids}
        return dict(sorted(left.items(), key=lambda item: item[1]))


def reduced(folder: Path, kept: Sequence[int]) -> Iterator[str]:
    """Reduce the files of tokenizers in a folder in place; yield what was done, as sentences.

    Args:
        folder: with the files.
        kept: old ids, in the order of new ones.

    Raises:
        OptionError: for a file that does not hold what it should; it names the file.
    """
    fewer = Fewer({old: new for new, old in enumerate(kept)})
    files = _read(folder)
    made: Sequence[tuple[str, Any, Callable[[Any, Fewer], tuple[str, str]]]] = (
        (TOKENIZER, files.stated, _tokenizer),
        (BY_TEXT, files.listed, _by_text),
        (ADDED, files.added, _by_text),
        (LINES, files.lines, _lines),
        (CONFIG, (files.config or {}).get("added_tokens_decoder") and files.config, _config),
        (MERGES, files.listed and files.merge_lines and files, _merges),
    )
    for name, held, change in made:
        if held:
            after, told = change(held, fewer)
            (folder / name).write_text(after, encoding="utf-8")
            yield f"{name}: {told}"
    for path in sorted(path for pattern in _OTHERS for path in folder.glob(pattern)):
        yield f"{path.name} is in a format that is not written, and stays: apply the map of ids to what it gives"


def _tokenizer(stated: dict[str, Any], fewer: Fewer) -> tuple[str, str]:
    """Return a smaller tokenizer.json, and what was done."""
    model, known = stated["model"], vocabulary_of(stated)
    left = fewer.ids_by_text(known)
    if isinstance(model["vocab"], list):
        model["vocab"] = [each for number, each in enumerate(model["vocab"]) if number in fewer.ids]
        if isinstance(model.get("unk_id"), int):
            model["unk_id"] = fewer.ids.get(model["unk_id"])
    else:
        model["vocab"] = left
    if model.get("merges"):
        prefix = _prefix(stated)
        model["merges"] = [each for each in model["merges"] if _is_made(pair_of(each), left, prefix)]
    if added_of(stated):
        added = [each for each in stated["added_tokens"] if each["id"] in fewer.ids]
        stated["added_tokens"] = [{**each, "id": fewer.ids[each["id"]]} for each in added]
    _mapped_template(stated.get("post_processor"), lambda each: fewer.ids.get(each, each))
    padding = stated.get("padding")
    if isinstance(padding, dict) and padding.get("pad_id") in fewer.ids:
        padding["pad_id"] = fewer.ids[padding["pad_id"]]
    return dumped(stated, 2), f"{len(left):,} of {len(known):,} tokens are left"


def _is_made(pair: tuple[str, str], left: Container[str], prefix: str) -> bool:
    """Whether a merge can still be made: both parts are left, and what they become."""
    return pair[0] in left and pair[1] in left and _joined(pair, prefix) in left


def _mapped_template(processor: Any, new: Callable[[int], int]) -> None:
    """Replace the ids that a post-processor of tokenizer.json puts around a text, in place."""
    for each in processors_of(processor):
        for special in (each.get("special_tokens") or {}).values():
            special["ids"] = [new(number) for number in special["ids"]]
        for name in ("cls", "sep"):
            if each.get(name) is not None:
                each[name][1] = new(each[name][1])


def _around(processor: Any) -> set[int]:
    """Return the ids that a post-processor puts around a text."""
    ids = set[int]()

    def seen(each: int) -> int:
        ids.add(each)
        return each

    _mapped_template(processor, seen)
    return ids


def _by_text(known: dict[str, int], fewer: Fewer) -> tuple[str, str]:
    """Return smaller JSON of ids by token, and what was done."""
    left = fewer.ids_by_text(known)
    return dumped(left), f"{len(left):,} of {len(known):,} tokens are left"


def _lines(lines: list[str], fewer: Fewer) -> tuple[str, str]:
    """Return fewer lines with a token each, and what was done."""
    left = [line for number, line in enumerate(lines) if number in fewer.ids]
    return "".join(f"{line}\n" for line in left), f"{len(left):,} of {len(lines):,} tokens are left"


def _config(config: dict[str, Any], fewer: Fewer) -> tuple[str, str]:
    """Return tokenizer_config.json with new ids of added tokens, and what was done."""
    decoder = {
        str(fewer.ids[int(each)]): value
        for each, value in config["added_tokens_decoder"].items()
        if int(each) in fewer.ids
    }
    return dumped({**config, "added_tokens_decoder": decoder}, 2), "added tokens have their new ids"


def _merges(files: TokenizerFiles, fewer: Fewer) -> tuple[str, str]:
    """Return merges.txt without the merges that cannot be made any more, and what was done."""
    left, lines = fewer.ids_by_text(files.listed or {}), files.merge_lines or []
    prefix = _prefix(files.stated)
    merges = [line for line in lines if is_merge(line)]
    gone = {line for line in merges if not _is_made(pair_of(line), left, prefix)}
    text = "".join(f"{line}\n" for line in lines if line not in gone)
    return text, f"{len(merges) - len(gone):,} of {len(merges):,} merges are left"
