"""Files of tokenizers beside a model, brought into line with a smaller vocabulary.

`tokenizer.json` is that of Hugging Face tokenizers (https://huggingface.co/docs/tokenizers/api/models): tokens with ids
(BPE, WordPiece, WordLevel), or in their order (Unigram). `vocab.txt` has a token a line, `vocab.json` ids by token with
the merges in `merges.txt`, `added_tokens.json` ids by token. What other formats hold (`tokenizer.model`, of
SentencePiece) stays: whoever calls the model applies the map of ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError

_TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_NAMES = (_TOKENIZER, "vocab.txt", "vocab.json", _CONFIG)
_OTHERS = ("*.model", "*.spm", "*.tiktoken", "sentencepiece.bpe.*")  # formats that are not written


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
    known = {} if folder is None else _known(folder)
    if not known:
        raise OptionError(
            f"vocabulary: {texts[0]!r} is no id, and no {_TOKENIZER}, vocab.txt or vocab.json beside the model tells "
            "the ids of tokens: give ids"
        )
    missing = [text for text in texts if text not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise OptionError(f"vocabulary: the tokenizer in {folder} has no token {missing[0]!r}{more}")
    return ids | {known[text] for text in texts}


def folder_of(model: Path | None) -> Path | None:
    """Return the folder with the tokenizer of a model: its own, or the one above a folder `onnx`; None without one."""
    above = [] if model is None else [model.parent, *([model.parent.parent] if model.parent.name == "onnx" else [])]
    return next((folder for folder in above if any((folder / name).is_file() for name in _NAMES)), None)


def _known(folder: Path) -> dict[str, int]:
    """Return the ids of the tokens of a folder by text; none where no tokenizer can be read."""
    stated = _json(folder / _TOKENIZER)
    if isinstance(stated, dict):
        return {**_vocabulary(stated), **{each["content"]: each["id"] for each in _added(stated)}}
    lines = folder / "vocab.txt"
    if lines.is_file():
        return {line: number for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines())}
    listed = _json(folder / "vocab.json")
    return {text: each for text, each in listed.items() if isinstance(each, int)} if isinstance(listed, dict) else {}


def _json(path: Path) -> Any:
    """Return what a JSON file holds; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _vocabulary(stated: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the tokens of a tokenizer.json."""
    vocabulary = _model(stated).get("vocab")
    if isinstance(vocabulary, dict):
        return vocabulary
    return {str(entry[0]): number for number, entry in enumerate(vocabulary or ())}


def _model(stated: Mapping[str, Any]) -> dict[str, Any]:
    model = stated.get("model")
    return model if isinstance(model, dict) else {}


def _added(stated: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for each in stated.get("added_tokens") or () if isinstance(each, dict)]


def needed(folder: Path, ids: Iterable[int]) -> set[int]:
    """Return the ids that a folder cannot do without, where some are kept.

    These are added and special tokens, and the parts that a tokenizer merges into kept ones:
    without these it could not make them. So a text all of whose tokens are kept is split as before.
    """
    found = set[int]()
    stated = _json(folder / _TOKENIZER)
    if isinstance(stated, dict):
        found.update(each["id"] for each in _added(stated))
        unknown = _vocabulary(stated).get(_model(stated).get("unk_token") or "")
        found.update(each for each in (unknown, _model(stated).get("unk_id")) if isinstance(each, int))
        found.update(_around(stated.get("post_processor")))
    listed = _json(folder / "added_tokens.json")
    found.update(each for each in (listed.values() if isinstance(listed, dict) else ()) if isinstance(each, int))
    decoder = (_json(folder / _CONFIG) or {}).get("added_tokens_decoder", {})
    found.update(int(each) for each in decoder if each.isdecimal())
    return found | _parts(_known(folder), _all_merges(folder, stated), {*ids, *found})


def _all_merges(folder: Path, stated: Any) -> list[tuple[str, str]]:
    """Return the pairs that the tokenizer of a folder merges."""
    if isinstance(stated, dict):
        return [_pair(each) for each in _model(stated).get("merges") or ()]
    path = folder / "merges.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_pair(line) for line in lines if _is_merge(line)]


def _parts(known: Mapping[str, int], merges: Sequence[tuple[str, str]], ids: set[int]) -> set[int]:
    """Return the ids of all that kept tokens are merged from, themselves among them."""
    sources: dict[str, list[tuple[str, str]]] = {}
    for one, other in merges:
        sources.setdefault(one + other, []).append((one, other))
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
    """
    fewer = Fewer({old: new for new, old in enumerate(kept)})
    files: Sequence[tuple[str, Callable[[str, Fewer], tuple[str, str]]]] = (
        (_TOKENIZER, _tokenizer),
        ("vocab.json", _by_text),
        ("added_tokens.json", _by_text),
        ("vocab.txt", _lines),
        (_CONFIG, _config),
    )
    merged = _merges(folder, fewer)
    for name, change in files:
        path = folder / name
        try:
            before = path.read_text(encoding="utf-8")
            after, told = change(before, fewer)
        except (OSError, UnicodeDecodeError):
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            yield f"{name} is not understood and stays: whoever calls the model applies the map of ids"
            continue
        if after != before:
            path.write_text(after, encoding="utf-8")
            yield f"{name}: {told}"
    yield from merged
    for path in sorted(path for pattern in _OTHERS for path in folder.glob(pattern)):
        yield f"{path.name} is in a format that is not written, and stays: apply the map of ids to what it gives"


def _tokenizer(text: str, fewer: Fewer) -> tuple[str, str]:
    """Return a smaller tokenizer.json, and what was done."""
    stated = json.loads(text)
    model, known = _model(stated), _vocabulary(stated)
    left = fewer.ids_by_text(known)
    if isinstance(model.get("vocab"), list):
        entries = model["vocab"]
        model["vocab"] = [entries[known[each]] for each in left]
        if isinstance(model.get("unk_id"), int):
            model["unk_id"] = fewer.ids.get(model["unk_id"])
    else:
        model["vocab"] = left
    added = _added(stated)
    if model.get("merges"):
        pairs = [_pair(each) for each in model["merges"]]
        model["merges"] = [each for each, pair in zip(model["merges"], pairs, strict=True) if _is_made(pair, left)]
    for each in added:
        each["id"] = fewer.ids.get(each["id"], each["id"])
    _mapped_template(stated.get("post_processor"), lambda each: fewer.ids.get(each, each))
    padding = stated.get("padding")
    if isinstance(padding, dict) and padding.get("pad_id") in fewer.ids:
        padding["pad_id"] = fewer.ids[padding["pad_id"]]
    told = f"{len(left):,} of {len(known):,} tokens are left"
    return json.dumps(stated, ensure_ascii=False, indent=2), told


def _pair(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge: a list of them, or a text with a blank between."""
    one, other = merge.split(" ") if isinstance(merge, str) else merge
    return one, other


def _is_made(pair: tuple[str, str], left: Container[str]) -> bool:
    """Whether a merge can still be made: both parts are left, and what they become."""
    return pair[0] in left and pair[1] in left and pair[0] + pair[1] in left


def _is_merge(line: str) -> bool:
    """Whether a line of merges.txt is a merge."""
    return not line.startswith("#version") and line.count(" ") == 1


def _mapped_template(processor: Any, new: Callable[[int], int]) -> None:
    """Replace the ids that a post-processor of tokenizer.json puts around a text, in place."""
    if not isinstance(processor, dict):
        return
    for each in processor.get("processors") or ():
        _mapped_template(each, new)
    for special in (processor.get("special_tokens") or {}).values():
        special["ids"] = [new(each) for each in special["ids"]]
    for name in ("cls", "sep"):
        if isinstance(processor.get(name), list):
            processor[name][1] = new(processor[name][1])


def _around(processor: Any) -> set[int]:
    """Return the ids that a post-processor puts around a text."""
    ids = set[int]()

    def seen(each: int) -> int:
        ids.add(each)
        return each

    _mapped_template(processor, seen)
    return ids


def _by_text(text: str, fewer: Fewer) -> tuple[str, str]:
    """Return smaller JSON of ids by token, and what was done."""
    known = json.loads(text)
    left = fewer.ids_by_text(known)
    return json.dumps(left, ensure_ascii=False), f"{len(left):,} of {len(known):,} tokens are left"


def _lines(text: str, fewer: Fewer) -> tuple[str, str]:
    """Return fewer lines with a token each, and what was done."""
    lines = text.splitlines()
    left = [line for number, line in enumerate(lines) if number in fewer.ids]
    return "".join(f"{line}\n" for line in left), f"{len(left):,} of {len(lines):,} tokens are left"


def _config(text: str, fewer: Fewer) -> tuple[str, str]:
    """Return tokenizer_config.json with new ids of added tokens, and what was done."""
    stated = json.loads(text)
    decoder = stated.get("added_tokens_decoder")
    if not decoder:
        return text, ""
    stated["added_tokens_decoder"] = {
        str(fewer.ids[int(each)]): value for each, value in decoder.items() if int(each) in fewer.ids
    }
    return json.dumps(stated, ensure_ascii=False, indent=2), "added tokens have their new ids"


def _merges(folder: Path, fewer: Fewer) -> list[str]:
    """Leave the merges out of merges.txt that cannot be made any more; return what was done."""
    path, known = folder / "merges.txt", _json(folder / "vocab.json")
    if not path.is_file() or not isinstance(known, dict):
        return []
    left = fewer.ids_by_text(known)
    lines = path.read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if _is_merge(line)]
    gone = {line for line in merges if not _is_made(_pair(line), left)}
    path.write_text("".join(f"{line}\n" for line in lines if line not in gone), encoding="utf-8")
    return [f"merges.txt: {len(merges) - len(gone):,} of {len(merges):,} merges are left"]
