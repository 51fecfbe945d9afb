"""The text of ids, by the tokenizer beside a model, for people to read.

A tokenizer.json says itself how tokens become text: its `decoder` is a list of steps, each from pieces to pieces
(https://huggingface.co/docs/tokenizers/api/decoders), with byte-level alphabets, `##` and U+2581 among them. Other
files say it by what they are: a vocab.txt is of WordPiece, a vocab.json with a symbol for each byte of byte-level BPE.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.commands.beside.tokenizer_files import (
    TOKENIZER,
    TokenizerFiles,
    processors_of,
    read_tokenizer,
    symbols_of_bytes,
)
from onnxprune.errors import InputError
from onnxprune.evaluation.examples import Reader

_Pieces: TypeAlias = list[str]
_Step: TypeAlias = Callable[[_Pieces, Mapping[str, Any]], _Pieces]
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_OF_BYTES = {symbol: byte for byte, symbol in symbols_of_bytes().items()}
# What WordPiece's cleanup puts together again (https://github.com/huggingface/tokenizers, decoders/wordpiece.rs).
_CLEANED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")

# What a file can make of 64 tokens, and what no tokenizer needs more of: beyond these, ids are shown.
_MOST_TEXT = 16_384  # signs, after any step
_MOST_TOKEN = 512  # signs of a token; the longest known are runs of 128 blanks or so
_MOST_STEPS = 32
_MOST_STATED = 64  # signs of a text that a step puts in or takes out


def reader_of(folder: Path | None) -> Reader:
    """Return what gives the text of ids by the tokenizer in a folder, or why none there does; of none, nothing."""
    try:
        files = None if folder is None else read_tokenizer(folder)
    except InputError as error:
        return Reader(why_none=str(error))
    steps = None if files is None else _steps(files)
    if files is None or not files.known:
        return Reader()
    if steps is None:
        return Reader(why_none=f"{files.folder / TOKENIZER} states steps from tokens to text that are not known here")
    tokens = {number: text for text, number in {**files.known, **(files.added or {})}.items()}

    def text(ids: Sequence[int]) -> str | None:
        pieces = [piece for piece in map(tokens.get, ids) if piece is not None and len(piece) <= _MOST_TOKEN]
        return _decoded(pieces, steps) if len(pieces) == len(ids) else None

    return Reader(text)


def _decoded(pieces: _Pieces, steps: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the text of tokens; None where steps make more of it than a page shows."""
    for stated in steps:
        pieces = _STEPS[stated["type"]](pieces, stated)
        if sum(map(len, pieces)) > _MOST_TEXT:
            return None
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
    return steps if len(steps) <= _MOST_STEPS and all(map(_is_known, steps)) else None


def _is_known(stated: Mapping[str, Any]) -> bool:
    """Whether a step is one of the table and states what it needs, in the right types and sizes.

    A pattern may be plain text alone: a regular expression of a file that nobody knows might never end. What is looked
    for has a sign at least: nothing is everywhere, and what takes its place there makes text longer with each step.
    """
    kind, pattern = stated.get("type"), stated.get("pattern")
    sought = [stated[name] for name in ("replacement", "suffix") if name in stated]
    if kind == "Replace":
        sought.append(pattern.get("String") if isinstance(pattern, dict) else None)
    put_in = [stated[name] for name in ("content", "prefix") if name in stated]
    return (
        isinstance(kind, str)
        and kind in _STEPS
        and all(isinstance(each, str) and len(each) <= _MOST_STATED for each in sought + put_in)
        and all(sought)
        and all(type(each) is int and each >= 0 for each in (stated.get(name, 0) for name in ("start", "stop")))
        and (kind not in ("Replace", "Strip") or "content" in stated)
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
    made = _Pieces()
    for are_bytes, pieces_of_run in groupby(pieces, lambda piece: _BYTE.fullmatch(piece) is not None):
        run = [*pieces_of_run]
        made.extend([_of_run(bytes(int(piece[3:5], 16) for piece in run))] if are_bytes else run)
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
