"""What the report says of streams that were turned, and what is printed of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.report.depth import Original, tell_of_original
from onnxprune.report.document import method_values
from onnxprune.report.words import plural

if TYPE_CHECKING:
    from onnxprune.graph.tensors import Array


def stream_values(
    name: str, groups: Sequence[str], *, centred: bool, places: int, matrices: int, shares: Sequence[Array]
) -> dict[str, Any]:
    """Return what the report says of a turned stream, before it is cut.

    Args:
        name: of the group of its units.
        groups: of its directions in the turned model, by frame.
        centred: whether the mean over the units was taken from what is written to it.
        places: that layers read it at.
        matrices: that stand on it.
        shares: ``[units]``, of what layers read, by direction and frame.
    """
    return {
        "name": name,
        "units": len(shares[0]),
        "rotations": len(shares),
        "places": places,
        "matrices": matrices,
        "centred": centred,
        "groups": list(groups),
        "shares": [share.tolist() for share in shares],
    }


def of_turned(
    report: dict[str, Any],
    *,
    streams: Sequence[Mapping[str, Any]],
    left: Mapping[str, str],
    turned: Mapping[str, int],
    original: Original,
) -> None:
    """Let the report of a cut of a turned model tell of the original.

    Args:
        report: is changed in place.
        streams: that were turned, see `stream_values`.
        left: why others were not, by name.
        turned: parameters and MACs of the turned model.
        original: the turned model was made of this, and is the same.
    """
    kept = {group["name"]: group["kept"] for group in report["groups"]}
    tell_of_original(report, original)
    report["method"] = method_values(original.options.method)
    report["rotation"] = {
        "rotations": original.options.rotations,
        **turned,
        "max_rel_diff": original.verification.max_rel_diff,
        "streams": [_cut(stream, kept) for stream in streams],
        "left": [{"name": name, "reason": reason} for name, reason in left.items()],
    }


def _cut(stream: Mapping[str, Any], kept: Mapping[str, int]) -> dict[str, Any]:
    """Return what is said of a stream with what is kept of it, and which share of what layers read that is."""
    counts = [kept[name] for name in stream["groups"]]
    shares = [sum(share[:count]) for share, count in zip(stream["shares"], counts, strict=True)]
    return {**{name: value for name, value in stream.items() if name != "shares"}, "kept": counts, "carried": shares}


def rotation_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what became of turned streams; nothing where none was."""
    rotation = report.get("rotation")
    if rotation is None:
        return
    for stream in rotation["streams"]:
        kept = " to ".join(str(count) for count in sorted({min(stream["kept"]), max(stream["kept"])}))
        count = stream["matrices"]
        matrices = f" and {count} {'matrix' if count == 1 else 'matrices'} on it" if count else ""
        yield (
            f"{stream['name']}: turned by {plural(stream['rotations'], 'rotation')}{matrices}; {kept} of "
            f"{stream['units']} directions kept, which carry {min(stream['carried']):.2%} of what layers read"
        )
    yield f"turned = original to {rotation['max_rel_diff']:.1e} of the output's range"
    for each in rotation["left"]:
        yield f"not turned: {each['name']}: {each['reason']}"
