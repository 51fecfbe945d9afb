"""The text of ids, by the tokenizer beside a model, for people to read.

A tokenizer.json says itself how tokens become text: its `decoder` is a list of steps, each from pieces to pieces
(https://huggingface.co/docs/tokenizers/api/decoders), with byte-level alphabets, `##` and U+2581 among them. Other
files say it by what they are: a vocab.txt is of WordPiece, a vocab.json with a symbol for each byte of byte-level BPE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.tokenizer_files import TokenizerFiles, processors_of, read_tokenizer, symbols_of_bytes
from onnxprune.errors import InputError
from onnxprune.evaluation.examples import Text

_Pieces: TypeAlias = list[str]
_Step: TypeAlias = Callable[[_Pieces, Mapping[str, Any]], _Pieces]
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_OF_BYTES = {symbol: byte for byte, symbol in symbols_of_bytes().items()}
# What WordPiece's cleanup puts together again (https://github.com/huggingface/tokenizers, decoders/wordpiece.rs).
_CLEANED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


def text_of(folder: Path | None) -> Text | None:
    """Return what gives the text of ids by the tokenizer in a folder; None where none there can be read."""
    try:
        files = None if folder is None else read_tokenizer(folder)
    except InputError:
        return None  # a page shows ids then
    steps = None if files is None else _steps(files)
    if files is None or steps is None:
        return None
    tokens = {number: text for text, number in {**files.known, **(files.added or {})}.items()}

    def text(ids: Sequence[int]) -> str | None:
        pieces = [tokens.get(number) for number in ids]
        return None if None in pieces else _decoded([piece for piece in pieces if piece is not None], steps)

    return text if tokens else None


def _decoded(pieces: _Pieces, steps: Sequence[Mapping[str, Any]]) -> str:
    for stated in steps:
        pieces = _STEPS[stated["type"]](pieces, stated)
    return "".join(pieces).encode("utf-8", errors="replace").decode("utf-8")  # half of a character is none


def _steps(files: TokenizerFiles) -> list[Mapping[str, Any]] | None:
    """Return the steps from tokens to text, in their order; None where some are not known or not as they should be."""
    if files.stated is not None:
        stated = [each for each in processors_of(files.stated.get("decoder")) if each.get("type") != "Sequence"]
        steps: list[Mapping[str, Any]] = [*stated] or [{"type": "Spaced"}]
    elif files.lines is not None:
        steps = [{"type": "WordPiece"}]
    else:
        steps = [{"type": "ByteLevel" if _OF_BYTES.keys() <= files.known.keys() else "Spaced"}]
    return steps if all(map(_is_known, steps)) else None


def _is_known(stated: Mapping[str, Any]) -> bool:
    """Whether a step is one of the table and states what it needs, in the right types.

    A pattern may be plain text alone: a regular expression of a file that nobody knows might never end.
    """
    names = {"content", "prefix", "replacement", "suffix", "pad_token", "word_delimiter_token"}
    texts = [stated[name] for name in names & stated.keys()]
    pattern, numbers = stated.get("pattern"), [stated.get(name, 0) for name in ("start", "stop")]
    return (
        isinstance(stated.get("type"), str)
        and stated["type"] in _STEPS
        and all(isinstance(each, str) for each in texts)
        and all(type(each) is int for each in numbers)
        and (stated["type"] not in ("Replace", "Strip") or "content" in stated)
        and (stated["type"] != "Replace" or (isinstance(pattern, dict) and isinstance(pattern.get("String"), str)))
    )


# -- steps: each from pieces to pieces, as the program of the file does it -----------------------------------------


def _spaced(pieces: _Pieces, _: Mapping[str, Any]) -> _Pieces:
    """Without a decoder, tokens are words."""
    return [" ".join(pieces)]


def _byte_level(pieces: _Pieces, _: Mapping[str, Any]) -> _Pieces:
    """Symbols are bytes (Radford et al., 2019); what holds others, as added tokens do, is text."""
    known = (
        bytes(_OF_BYTES[symbol] for symbol in piece)
        if _OF_BYTES.keys() >= set(piece)
        else piece.encode("utf-8", errors="replace")
        for piece in pieces
    )
    return [b"".join(known).decode("utf-8", errors="replace")]


def _byte_fallback(pieces: _Pieces, _: Mapping[str, Any]) -> _Pieces:
    """Runs of tokens such as <0xE2> are UTF-8."""
    made, run = _Pieces(), bytearray()
    for piece in [*pieces, ""]:
        byte = _BYTE.fullmatch(piece)
        if byte is not None:
            run.append(int(byte[1], 16))
            continue
        made.append(_of_run(bytes(run)))
        made.append(piece)
        run.clear()
    return made


def _of_run(run: bytes) -> str:
    """Return the text of bytes; a sign for each of them where they are none."""
    try:
        return run.decode("utf-8")
    except UnicodeDecodeError:
        return "\ufffd" * len(run)


def _word_piece(pieces: _Pieces, stated: Mapping[str, Any]) -> _Pieces:
    """A token begins a word unless it says that it goes on (Wu et al., 2016)."""
    prefix = stated.get("prefix", "##")
    words = [
        piece if not number else piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"
        for number, piece in enumerate(pieces)
    ]
    return [_cleaned(word) for word in words] if stated.get("cleanup", True) else words


def _cleaned(word: str) -> str:
    for mark in _CLEANED:
        word = word.replace(mark, mark[1:])
    return word


def _metaspace(pieces: _Pieces, stated: Mapping[str, Any]) -> _Pieces:
    """U+2581 stands for a blank (Kudo and Richardson, 2018), but where a blank was put in front of the text."""
    mark = stated.get("replacement", "\u2581")
    is_added = stated.get("prepend_scheme", "always") != "never" and stated.get("add_prefix_space", True) is not False
    return [piece.replace(mark, "" if is_added and not number else " ") for number, piece in enumerate(pieces)]


def _bpe(pieces: _Pieces, stated: Mapping[str, Any]) -> _Pieces:
    """A token with the suffix ends a word (Sennrich et al., 2016)."""
    suffix = stated.get("suffix", "</w>")
    return [piece.replace(suffix, " " if number < len(pieces) - 1 else "") for number, piece in enumerate(pieces)]


def _replace(pieces: _Pieces, stated: Mapping[str, Any]) -> _Pieces:
    return [piece.replace(stated["pattern"]["String"], stated["content"]) for piece in pieces]


def _strip(pieces: _Pieces, stated: Mapping[str, Any]) -> _Pieces:
    """So many signs go from both ends of each piece, at most."""
    sign, made = stated["content"], _Pieces()
    for piece in pieces:
        first = min(stated.get("start", 0), len(piece) - len(piece.lstrip(sign)))
        last = min(stated.get("stop", 0), len(piece) - len(piece.rstrip(sign)))
        made.append(piece[first : len(piece) - last])
    return made


_STEPS: Mapping[str, _Step] = {
    "BPEDecoder": _bpe,
    "ByteFallback": _byte_fallback,
    "ByteLevel": _byte_level,
    "Fuse": lambda pieces, _: ["".join(pieces)],
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Spaced": _spaced,
    "Strip": _strip,
    "WordPiece": _word_piece,
}
