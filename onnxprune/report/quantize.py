"""What is told of eight bits: in the report, and as lines and tables on the screen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.latency.speedup import FLOOR
from onnxprune.metrics.words import headline
from onnxprune.planning.forms import Tried
from onnxprune.report.words import all_printable, ms_text, new_table, plural, size_text
from onnxprune.runtime.quantize import has_vnni

if TYPE_CHECKING:
    from rich.console import RenderableType

_FIGURES = ("latency_ms", "fraction", "interval", "accuracy", "figures")  # of a file
_FILES = {"original": "original", "alone": "int8 alone", "pruned": "pruned", "both": "pruned, int8"}


def quantization_values(
    best: Tried,
    tried: Sequence[Tried],
    samples: int,
    features: Collection[str] | None,
    *,
    held_out: bool,
    before: int,
    alone: Mapping[str, Any],
    pruned: Mapping[str, Any] | None = None,
    both: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a report says of quantization.

    Args:
        best: the form that was taken.
        tried: all forms.
        samples: that the model was calibrated on.
        features: of the processor; None where models run elsewhere.
        held_out: whether losses are of samples that no range was taken from.
        before: size of the original in bytes.
        alone: of the original in eight bits: size_bytes, accuracy, fidelity and latency, as in a report.
        pruned: the same of the pruned model in float32.
        both: the same of the pruned model in eight bits.
    """
    files = {"alone": alone, "pruned": pruned, "both": both}
    return {
        **best.to_dict(),
        "mode": best.form.mode,
        "calibration_samples": samples,
        "loss_held_out": held_out,
        "vnni": None if features is None else has_vnni(features),
        "tried": [each.to_dict() for each in tried],
        "files": {
            "original": {"size_bytes": before, **dict.fromkeys(_FIGURES)} | _of_original(alone),
            **{name: None if values is None else _file(values) for name, values in files.items()},
        },
    }


def _of_original(values: Mapping[str, Any]) -> dict[str, Any]:
    latency, accuracy = values["latency"], values["accuracy"]
    known: dict[str, Any] = (
        {"latency_ms": latency[0]["before_ms"], "fraction": 1.0, "interval": [1.0, 1.0]} if latency else {}
    )
    return known | ({} if accuracy is None else {"accuracy": accuracy["before"]})


def _file(values: Mapping[str, Any]) -> dict[str, Any]:
    latency, accuracy, fidelity = (values[name] for name in ("latency", "accuracy", "fidelity"))
    return {
        "size_bytes": values["size_bytes"],
        "latency_ms": latency[0]["after_ms"] if latency else None,
        "fraction": 1 / latency[0]["speedup"] if latency else None,
        "interval": [1 / speedup for speedup in reversed(latency[0]["speedup_interval"])] if latency else None,
        "accuracy": None if accuracy is None else accuracy["after"],
        "figures": None if fidelity is None else fidelity["figures"],
    }


def quantization_parts(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the table of all files and the sentences about eight bits; nothing where nothing was quantized."""
    told = report.get("quantization")
    if told is None:
        return
    files = {name: file for name, file in told["files"].items() if file is not None}
    table = new_table("", "file size", "latency", "of the original's", "accuracy", "fidelity")
    for name, file in files.items():
        latency = ("-", "-") if file["latency_ms"] is None else (ms_text(file["latency_ms"]), f"{file['fraction']:.3f}")
        accuracy = "-" if file["accuracy"] is None else f"{file['accuracy']:.2%}"
        fidelity = "-" if not file["figures"] else headline(file["figures"])
        table.add_row(_FILES[name], size_text(file["size_bytes"]), *latency, accuracy, fidelity)
    yield table
    yield _form_line(told)


def _form_line(told: Mapping[str, Any]) -> str:
    others = [each for each in told["tried"] if each["form"] != told["form"]]
    text = f"int8: {told['form']}, per channel, by {plural(told['calibration_samples'], 'sample')}"
    if others:
        text += f"; of {len(told['tried'])} forms: " + "; ".join(map(_tried, told["tried"]))
    if not told["loss_held_out"]:
        text += "; losses are of the samples that ranges were taken from: there are too few for both"
    return text


def _tried(each: Mapping[str, Any]) -> str:
    if each["why_not"] is not None:
        return f"{each['form']} failed"
    timed = "" if each["latency"] is None else f" at {each['latency']:.2f} of the latency"
    return f"{each['form']}, loss {each['loss']:.2g}{timed}"


def slower_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield that eight bits are slower than float32, of the original and of the pruned model, where they are.

    Both were raced against the original, each by itself: they are where their intervals have no latency in common.
    """
    told = report.get("quantization")
    if told is None:
        return
    files = {name: file for name, file in told["files"].items() if file is not None and file["interval"] is not None}
    why = "" if told["vnni"] is not False else ": the processor has no VNNI, which multiplies eight bits fast"
    for one, other in (("original", "alone"), ("pruned", "both")):
        if one in files and other in files:
            ratio = files[other]["fraction"] / files[one]["fraction"]
            if files[other]["interval"][0] > files[one]["interval"][1] * (1 + FLOOR):
                yield f"int8 is {ratio:.2f}x slower than float32 here ({_FILES[other]} beside {_FILES[one]}){why}"


def quantize_tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return what ``onnxprune quantize`` prints."""
    report = all_printable(report)
    return [*quantization_parts(report), f"{report['output']['path']}: {_gains(report)}"]


def _gains(report: Mapping[str, Any]) -> str:
    slower = [*slower_lines(report)]
    sizes = report["output"]["size_bytes"], report["input"]["size_bytes"]
    words = [f"{sizes[1] / sizes[0]:.2f}x smaller"]
    for latency in report["latency"]:
        faster = latency["speedup"] >= 1
        words.append(f"{latency['speedup']:.2f}x faster" if faster else f"{1 / latency['speedup']:.2f}x slower")
    if report["fidelity"] is not None:
        words.append(headline(report["fidelity"]["figures"]))
    return "; ".join([*words, *slower])
