"""English text in sequences of tokens."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.models.real.packages import SEED, installed

EVALUATION_SHARE = 0.4  # of the text, whole articles
TUNING = "tuning"  # the part that has text of documentation too
RUN = 8  # words in a row that documentation and evaluation may not both have
DOCUMENTED = ("numpy", "scipy", "sklearn")  # packages whose documentation is read, beside Python's own


def articles() -> tuple[list[str], list[str]]:
    """Return English articles (calibration, evaluation): Python's help topics and scikit-learn's data descriptions."""
    from pydoc_data.topics import topics

    texts = {name: plain(text) for name, text in topics.items()}
    for path in sorted(installed("sklearn/datasets/descr").glob("*.rst")):
        texts[path.name] = plain(path.read_text(encoding="utf-8"))
    names = sorted({text: name for name, text in texts.items()}.values())  # topics repeat one another
    order = [names[i] for i in np.random.default_rng(SEED).permutation(len(names))]
    size = np.cumsum([len(texts[name]) for name in order])
    cut = int(np.searchsorted(size, size[-1] * EVALUATION_SHARE)) + 1
    return without_shared([texts[name] for name in order[cut:]], [texts[name] for name in order[:cut]])


def plain(text: str) -> str:
    """Return a text without rulers, markup and indentation; paragraphs stay apart."""
    paragraphs = (" ".join(re.sub(r"[*`|]|[-=~^+.#]{3,}", " ", p).split()) for p in re.split(r"\n\s*\n", text))
    return "\n".join(p for p in paragraphs if p)


def without_shared(kept: list[str], filtered: list[str]) -> tuple[list[str], list[str]]:
    """Return both lists, the second without paragraphs that also stand in the first."""
    seen = {paragraph for text in kept for paragraph in text.split("\n")}
    left = ("\n".join(p for p in text.split("\n") if p not in seen) for text in filtered)
    return kept, [text for text in left if text]


def apart(texts: Sequence[str], held: Sequence[str], run: int = RUN) -> list[str]:
    """Return texts without the paragraphs that share some words in a row with others, whatever stands around these."""
    seen = {words for text in held for words in _runs(text, run)}
    left = ("\n".join(p for p in text.split("\n") if seen.isdisjoint(_runs(p, run))) for text in texts)
    return [text for text in left if text]


def _runs(text: str, length: int) -> Iterator[tuple[str, ...]]:
    """Yield all runs of so many words, without signs and capitals."""
    words = re.findall(r"[a-z0-9_]+", text.lower())
    yield from zip(*(words[start:] for start in range(length)), strict=False)


def sequences(texts: Sequence[str], tokenizer: Any, length: int) -> np.ndarray:
    """Return all full runs of `length` tokens, int64 ``[samples, length]``, shuffled; none spans two articles."""
    return with_articles(texts, tokenizer, length)[0]


def with_articles(texts: Sequence[str], tokenizer: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `sequences`, and the number of the article that each is of, int64 ``[samples]``."""
    runs, articles = [], []
    for article, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        starts = range(0, len(ids) - length + 1, length)
        runs += [ids[start : start + length] for start in starts]
        articles += [article] * len(starts)
    order = np.random.default_rng(SEED).permutation(len(runs))
    return np.array(runs, np.int64)[order], np.array(articles, np.int64)[order]


def documentation() -> list[str]:
    """Return what modules say of themselves, one text each: Python's own and those of some packages, in order."""
    folders = [Path(sysconfig.get_path("stdlib")), *(installed(name) for name in DOCUMENTED)]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py")) if _is_read(path.relative_to(folder))]
    texts = ("\n".join(_docstrings(path)) for path in paths)
    return [text for text in dict.fromkeys(texts) if text]


def _is_read(path: Path) -> bool:
    return not {"site-packages", "dist-packages", "test", "tests", "idlelib", "pydoc_data"}.intersection(path.parts)


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module, without paragraphs that are code."""
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # templates, samples of broken code
        return
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            said = "\n\n".join(p for p in re.split(r"\n\s*\n", ast.get_docstring(node) or "") if ">>>" not in p)
            yield from [plain(said)] if said else []


def passages(tokenizer: Any, length: int, tuning: int, wanted: Mapping[str, int]) -> dict[str, tuple[np.ndarray, ...]]:
    """Return sequences with the numbers of their articles: those for evaluation, and documentation beside `TUNING`.

    Args:
        tokenizer: of the network.
        length: tokens of a sequence.
        tuning: sequences of the part `TUNING`: of documentation, those behind them are taken.
        wanted: how many of ``eval`` and of ``passages``.
    """
    kept, held = articles()
    evaluation, more = (with_articles(texts, tokenizer, length) for texts in (held, apart(documentation(), held)))
    first = tuning - len(sequences(kept, tokenizer, length))
    return {
        "eval": tuple(each[: wanted["eval"]] for each in evaluation),
        "passages": tuple(each[first:][: wanted["passages"]] for each in more),
    }


def text_parts(tokenizer: Any, length: int, wanted: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the sequences of each part; a smaller calibration part is the beginning of the larger one.

    `TUNING` begins as calibration does; documentation follows that shares no run of `RUN` words with the evaluation.
    """
    kept, held = articles()
    calibration, evaluation = (sequences(texts, tokenizer, length) for texts in (kept, held))
    print(f"{len(calibration)} sequences of {length} tokens for calibration, {len(evaluation)} for evaluation")
    parts = {part: (evaluation if part == "eval" else calibration)[:count] for part, count in wanted.items()}
    if TUNING in wanted:
        more = sequences(apart(documentation(), held), tokenizer, length)
        print(f"{len(more)} sequences of documentation")
        parts[TUNING] = np.concatenate([calibration, more])[: wanted[TUNING]]
    for part, rows in parts.items():
        if len(rows) < wanted[part]:
            raise SystemExit(f"{part}: {len(rows)} sequences, wanted {wanted[part]}")
    return parts
