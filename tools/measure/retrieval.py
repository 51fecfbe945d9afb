"""Measure what sentence encoders are for: whether the nearest passage of all is one of the same article.

    python tools/measure/retrieval.py DIR MODEL.onnx [MODEL.onnx ...] [--results FOLDER]

DIR holds what `tools/models/real_models.py sentences` makes; the first model is the original. There are two sets of
passages: of the articles for evaluation, and of documentation, where others of the same modules are tuned on. Each one
whose article has another one in its set is a query, all others are what is searched, by cosine. A hit is a nearest
passage of the same article. `kept` is the share of the original's hits, with a 95 % interval by resampling
queries (Efron 1979), the same ones for both models. ``retrieval.jsonl`` in the folder of results has a line for each
model and set; tools/measure/recovery.py makes a page of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import differs, package_commit  # noqa: E402
from tools.models.real.files import run  # noqa: E402

BATCH, DRAWS = 32, 10_000


def embedded(model: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return the embeddings of all passages, of length one, float32 ``[passages, width]``."""
    count = len(next(iter(feeds.values())))
    batches = (
        {name: array[start : start + BATCH] for name, array in feeds.items()} for start in range(0, count, BATCH)
    )
    whole = np.concatenate([run(model, batch) for batch in batches])
    return np.asarray(whole / np.linalg.norm(whole, axis=1, keepdims=True))


def hits(embeddings: np.ndarray, articles: np.ndarray) -> np.ndarray:
    """Return for each query whether the nearest passage is of its article.

    >>> hits(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]]), np.array([0, 0, 1, 1])).tolist()
    [True, False, False, False]
    """
    similar = embeddings @ embeddings.T
    np.fill_diagonal(similar, -np.inf)
    queries = (articles[:, None] == articles).sum(1) > 1
    return np.asarray((articles[similar.argmax(1)] == articles)[queries])


def interval(found: np.ndarray, original: np.ndarray) -> tuple[float, float]:
    """Return a 95 % interval of the ratio of hits."""
    rows = np.random.default_rng(0).integers(0, len(found), (DRAWS, len(found)))
    ratios = found[rows].sum(1) / original[rows].sum(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def measured(folder: Path, models: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield what each model finds in each set, beside the first model."""
    commit = package_commit() + "+" * differs("onnxprune")
    for part in ("eval", "passages"):
        with np.load(folder / f"text_{part}.npz") as file:
            feeds = dict(file)
        articles = np.load(folder / f"text_{part}_articles.npz")["article"]
        original = None
        for model in models:
            found = hits(embedded(model, feeds), articles)
            original = found if original is None else original
            low, high = interval(found, original)
            yield {
                "part": part,
                "model": model.stem,
                "commit": commit,
                "queries": len(found),
                "passages": len(articles),
                "articles": len(set(articles.tolist())),
                "found": float(found.mean()),
                "kept": float(found.sum() / original.sum()),
                "low": low,
                "high": high,
            }


def main() -> None:
    """Measure models beside the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "recovery", metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    with (arguments.results / "retrieval.jsonl").open("a", encoding="utf-8") as file:
        for each in measured(arguments.folder, arguments.models):
            file.write(json.dumps(each) + "\n")
            file.flush()
            print(each)


if __name__ == "__main__":
    main()
