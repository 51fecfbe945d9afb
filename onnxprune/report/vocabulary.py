"""What the report says of tokens that went, and what is printed of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.report.depth import of_original
from onnxprune.report.document import file_values, verification_values
from onnxprune.report.rounds import proofs
from onnxprune.report.words import enumerated, plural

if TYPE_CHECKING:
    from onnxprune.dependency.vocabulary import Vocabulary
    from onnxprune.evaluation.verify import Verification
    from onnxprune.graph.model import Model
    from onnxprune.planning.options import Options
    from onnxprune.surgery.rewrite import Cut
    from onnxprune.surgery.vocabulary import Ids


_CHANGED = (
    "vocabulary",
    "method",
    "targets",
    "ratio",
    "eval_data",
)  # options that are others when the smaller model is cut


def vocabulary_values(words: Vocabulary, kept: Ids, asked: int, *, samples: int, left_out: int) -> dict[str, Any]:
    """Return what the report says of a vocabulary as plain values; see docs/report.md.

    Args:
        words: of the original.
        kept: old ids, in the order of new ones.
        asked: how many tokens were to be kept: those that a tokenizer needs are kept as well.
        samples: that were given.
        left_out: of these, those that hold tokens which are gone.
    """
    return {
        "asked": asked,
        "before": words.size,
        "after": len(kept),
        "kept": kept.tolist(),
        "inputs": list(words.inputs),
        "outputs": list(words.outputs),
        "samples": samples,
        "left_out": left_out,
    }


def of_whole(
    report: dict[str, Any],
    *,
    values: Mapping[str, Any],
    source: tuple[Model, int],
    options: Options,
    cuts: Mapping[str, Cut],
    macs: int | None = None,
    verification: Verification | None = None,
    shares: Mapping[str, float] | None = None,
) -> None:
    """Let the report of a cut of the smaller model, or of that itself, tell of the original.

    Args:
        report: is changed in place.
        values: of the vocabulary.
        source: the original, and its multiply-accumulates.
        options: of the whole run.
        cuts: of the vocabulary.
        macs: of the smaller model, where nothing else was cut.
        verification: the proof of the smaller model, where the report has that of what came after.
        shares: of the original that were left, by kind of target.
    """
    report["input"] = file_values(*source)
    own = options.to_dict()
    report["options"] = {**report["options"], **{name: own[name] for name in _CHANGED}}
    report["vocabulary"] = dict(values)
    if macs is not None:
        report["output"]["macs"] = macs
    if verification is not None:
        report["verification"] = proofs([verification_values(verification), report["verification"]])
        report["initializers"] = composed(cuts, report["initializers"])
    report["promise"] = of_original(report["promise"], options, shares or {})


def composed(first: Mapping[str, Cut], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return cuts of an original that was cut twice, in its own indices.

    Args:
        first: of the first cut, by the name in what came of it.
        second: of the second one, as the report has them.
    """
    cuts: dict[str, Any] = {}
    for name, cut in first.items():
        cuts[name] = {"source": cut.source, "kept": {str(dim): list(each) for dim, each in cut.kept.items()}}
    sources = {each["source"] for each in second.values()}
    found = {name: each for name, each in cuts.items() if name not in sources or name in second}
    for name, cut in second.items():
        before = cuts.get(cut["source"], {"source": cut["source"], "kept": {}})
        own = {
            dim: [before["kept"][dim][at] for at in each] if dim in before["kept"] else each
            for dim, each in cut["kept"].items()
        }
        found[name] = {"source": before["source"], "kept": {**before["kept"], **own}}
    return found


def vocabulary_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what became of the vocabulary, and which ports changed; nothing where it was not cut."""
    words = report.get("vocabulary")
    if words is None:
        return
    inputs, outputs = (enumerated([repr(name) for name in words[which]]) for which in ("inputs", "outputs"))
    ports = list[str]()
    if inputs:
        ports.append(f"{inputs} {'takes' if len(words['inputs']) == 1 else 'take'} other ids")
    if outputs:
        ports.append(f"{outputs} {'scores' if len(words['outputs']) == 1 else 'score'} the kept tokens alone")
    yield f"ports changed, as was asked: {words['after']:,} of {words['before']:,} tokens are kept; {', '.join(ports)}"
    more = words["after"] - words["asked"]
    if more:
        yield f"{more:,} of them are special tokens, and parts that the tokenizer makes kept ones of"
    if words["left_out"]:
        what = plural(words["samples"], "sample")
        yield f"left out {words['left_out']:,} of {what}, which hold tokens that are gone"
