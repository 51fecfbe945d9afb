"""Files of tokenizers beside a model, read and checked once: what they hold is what the rest relies on.

`tokenizer.json` is that of Hugging Face tokenizers (https://huggingface.co/docs/tokenizers/api/models): tokens with ids
(BPE, WordPiece, WordLevel), or in their order (Unigram). `vocab.txt` has a token a line, `vocab.json` ids by token with
the merges in `merges.txt`, `added_tokens.json` ids by token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.commands.beside.text_files import json_of, texts_within
from onnxprune.errors import InputError

TOKENIZER, LINES, BY_TEXT, MERGES = "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"
ADDED, CONFIG, SPECIAL = "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"
_ALL = (TOKENIZER, LINES, BY_TEXT, MERGES, ADDED, CONFIG, SPECIAL)
# What programs take for special tokens of vocab.txt where nothing names them (BertTokenizer of transformers).
_OF_BERT = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files of a folder hold; None stands for a file that is not there."""

    folder: Path
    stated: dict[str, Any] | None  # tokenizer.json
    listed: dict[str, int] | None  # vocab.json
    lines: list[str] | None  # vocab.txt
    merge_lines: list[str] | None  # merges.txt
    added: dict[str, int] | None  # added_tokens.json
    config: dict[str, Any] | None  # tokenizer_config.json
    special: dict[str, Any] | None  # special_tokens_map.json

    @property
    def known(self) -> dict[str, int]:
        """The ids of tokens by text; none where no tokenizer can be read."""
        if self.stated is not None:
            return {**vocabulary_of(self.stated), **{each["content"]: each["id"] for each in added_of(self.stated)}}
        if self.lines is not None:
            return {line: number for number, line in enumerate(self.lines)}
        return self.listed or {}

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs that are merged."""
        if self.stated is not None:
            return [pair_of(each) for each in self.stated["model"].get("merges") or ()]
        return [pair_of(line) for line in self.merge_lines or () if is_merge(line)]

    @property
    def special_texts(self) -> set[str]:
        """The texts of special tokens that no file gives an id."""
        texts = {text for stated in (self.special, self.config) for text in _texts(stated or {})}
        return texts | set(_OF_BERT if self.stated is None and self.lines is not None else ())


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Return what the files of a tokenizer hold.

    Raises:
        InputError: for a file that does not hold what it should, and for files that hold too much; it names the file.
    """
    texts = texts_within(folder, _ALL)
    stated = _json(folder / TOKENIZER, texts)
    if stated is not None:
        _check_tokenizer(folder / TOKENIZER, stated)
    config = _object(folder / CONFIG, texts)
    decoder = (config or {}).get("added_tokens_decoder") or {}
    _check(folder / CONFIG, isinstance(decoder, dict) and all(map(str.isdecimal, decoder)), "added tokens by id")
    return TokenizerFiles(
        folder,
        stated,
        _ids(folder / BY_TEXT, texts),
        _lines(texts.get(LINES)),
        _lines(texts.get(MERGES)),
        _ids(folder / ADDED, texts),
        config,
        _object(folder / SPECIAL, texts),
    )


def lines_of(text: str) -> list[str]:
    r"""Return lines of a text; only what ends a line in such files does: a token may be any other kind of blank.

    >>> lines_of("a\x0bb\n\nc\n")
    ['a\x0bb', '', 'c']
    """
    *lines, last = text.split("\n")
    return [*lines, last] if last else lines


def dumped(value: Any, indent: int | None = None) -> str:
    """Return JSON; half of a character, which no file can hold, stays written in ASCII."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def vocabulary_of(stated: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the tokens of a tokenizer.json, but added ones."""
    vocabulary = stated["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {entry[0]: number for number, entry in enumerate(vocabulary)}


def added_of(stated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens of a tokenizer.json."""
    return stated.get("added_tokens") or []


def pair_of(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge: a list of them, or a text with a blank between."""
    one, other = merge.split(" ") if isinstance(merge, str) else merge
    return one, other


def is_merge(line: str) -> bool:
    """Whether a line of merges.txt is a merge."""
    return not line.startswith("#version") and line.count(" ") == 1


def processors_of(processor: Any) -> Iterator[dict[str, Any]]:
    """Yield a post-processor of tokenizer.json, or another part of it, and those that it is made of."""
    if isinstance(processor, dict):
        yield processor
        for name in ("processors", "pretokenizers", "decoders"):
            parts = processor.get(name)
            for each in parts if isinstance(parts, list) else ():
                yield from processors_of(each)


def symbols_of_bytes() -> dict[int, str]:
    """Return the symbol of each byte: itself where it is printable, else one from 256 on (Radford et al., 2019, GPT-2).

    >>> symbols = symbols_of_bytes()
    >>> symbols[ord("!")], symbols[ord(" ")], len(set(symbols.values()))
    ('!', 'Ġ', 256)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + at) for at, byte in enumerate(others)}}


# -- checks ------------------------------------------------------------------------------------------------


def _check(path: Path, holds: bool, expected: str) -> None:
    if not holds:
        raise InputError(f"{path} does not hold {expected}")


def _json(path: Path, texts: Mapping[str, str]) -> Any:
    if path.name not in texts:
        return None
    try:
        value = json_of(path, texts[path.name])
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from None
    _check(path, value is not None, "JSON of a tokenizer")
    return value


def _object(path: Path, texts: Mapping[str, str]) -> dict[str, Any] | None:
    value: dict[str, Any] | None = _json(path, texts)
    _check(path, value is None or isinstance(value, dict), "a JSON object")
    return value


def _ids(path: Path, texts: Mapping[str, str]) -> dict[str, int] | None:
    value = _object(path, texts)
    _check(path, _are_ids((value or {}).values()), "one id for each token")
    return value


def _are_ids(values: Any) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) for each in values)


def _lines(text: str | None) -> list[str] | None:
    return None if text is None else lines_of(text)


def _check_tokenizer(path: Path, stated: Any) -> None:
    """Raise InputError where a tokenizer.json is not as its program writes it."""
    model = stated.get("model") if isinstance(stated, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        _check(path, _are_ids(vocabulary.values()), "one id for each token")
    else:
        entries = vocabulary if isinstance(vocabulary, list) else [None]
        pieces = all(isinstance(each, list) and each and isinstance(each[0], str) for each in entries)
        _check(path, pieces, "a model with a vocabulary of tokens")
    assert isinstance(model, dict)
    merges = model.get("merges") or []
    _check(path, isinstance(merges, list) and all(map(_is_pair, merges)), "merges of two parts each")
    added = stated.get("added_tokens") or []
    are_added = isinstance(added, list) and all(isinstance(each, dict) for each in added)
    _check(path, are_added and _are_ids(each.get("id") for each in added), "an id for each added token")
    _check(path, all(isinstance(each.get("content"), str) for each in added), "a text for each added token")
    for each in processors_of(stated.get("post_processor")):
        _check(path, _puts_ids(each), "ids of the tokens that are put around a text")


def _is_pair(merge: Any) -> bool:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)


def _puts_ids(processor: Mapping[str, Any]) -> bool:
    """Whether what a post-processor puts around a text has ids."""
    special = processor.get("special_tokens") or {}
    ends = [processor[name] for name in ("cls", "sep") if processor.get(name) is not None]
    return (
        isinstance(special, dict)
        and all(isinstance(each, dict) and isinstance(each.get("ids"), list) for each in special.values())
        and all(_are_ids(each["ids"]) for each in special.values())
        and all(isinstance(each, list) and len(each) == 2 and _are_ids(each[1:]) for each in ends)
    )


def _texts(stated: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens that settings of a tokenizer name, as text or as an object with it."""
    for key, value in stated.items():
        if key.endswith(("_token", "_special_tokens")):
            for each in value if isinstance(value, list) else [value]:
                text = each.get("content") if isinstance(each, dict) else each
                if isinstance(text, str):
                    yield text
