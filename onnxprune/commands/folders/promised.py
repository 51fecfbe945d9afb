"""What targets come to in a file that is cut as one of its bodies was: the body meets them, and is not all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxprune.commands.folders.settle import PrunedFile
from onnxprune.planning.targets import parse_all

_SIZES = {"macs": "macs", "params": "params", "size": "size_bytes"}  # kinds of targets, and what reports call them
_CLOSE = 1.01  # times what was asked for: so near a target counts as met


def told_of_targets(files: Sequence[PrunedFile]) -> Iterator[str]:
    """Yield a sentence on each target that the body of a file meets and the file misses."""
    for file in files:
        if file.report is None or not file.by_body:
            continue
        before, after = file.report["input"], file.report["output"]
        for target in parse_all(file.report["options"]["targets"]):
            key = _SIZES.get(target.kind)
            if key is None or not before[key]:
                continue
            wanted, left = target.fraction(before[key]), after[key] / before[key]
            if left > _CLOSE * wanted:
                yield (
                    f"{file.name}: target {target.kind} asked for {wanted:.3g} of the original, and {left:.3g} of the "
                    "file is left: targets are met by the body that texts begin in; ask for less"
                )
