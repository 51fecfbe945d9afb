"""One plan, edited, applied to four forms of a network: float32, half precision, QDQ, and dynamic int8.

What is kept is taken from the reports, and held against the plan (`missed`) and against float32 (`differences`): the
groups that lose units, and every weight that has its name in both files, but for what quantizers append to it. Of the
group that has a count alone, importance in each file says which units stay: as many there, and how many are the same
(`Applied.alike`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.proofs.planned.edits import Edited, edit, planned

FLOAT = "fp32"
FORMS = (FLOAT, "fp16", "QDQ", "dynamic int8")
CALIBRATED = 8  # samples that ranges of activations are taken from
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network in float32, samples of it, and how much is planned to go."""

    title: str
    model: Path
    samples: Path
    ratio: float


@dataclass(frozen=True)
class Applied:
    """What became of a subject."""

    subject: Subject
    edited: Edited
    reports: Mapping[str, Report]  # by form
    touched: frozenset[str]  # weights that nodes of the group with a count alone read

    def faults(self) -> list[str]:
        """Return what is not as it should be, in sentences; nothing where the plan was kept to everywhere."""
        base = self.reports[FLOAT]
        told = [f"{FLOAT}: {each}" for each in missed(self.edited, base)]
        for form, report in self.reports.items():
            told += [f"{form}: not proven"] * (not report["verification"]["passed"])
            told += [f"{form}: {each}" for each in self._differences(report)]
        return told

    def _differences(self, report: Report) -> list[str]:
        base = self.reports[FLOAT]
        is_other = other_choice(base, report, self.edited.counted) is not None
        return differences(base, report, self.edited.counted, self.touched if is_other else frozenset())

    def alike(self, form: str) -> float:
        """Return which share of the units that a count alone keeps in float32 is kept in a form."""
        base, report = self.reports[FLOAT], self.reports[form]
        other = other_choice(base, report, self.edited.counted)
        own = _named(base, self.edited.counted)["kept_units"]
        return 1.0 if other is None else len({*own} & {*other}) / len(own)

    def by_name(self, form: str) -> int:
        """Return how many groups of the plan have their name in a form."""
        names = {group["name"] for group in self.reports[form]["groups"]}
        return sum(each["name"] in names for each in planned(self.edited.text))

    def sizes(self, form: str) -> tuple[int, int]:
        """Return the bytes of the file before and after."""
        report = self.reports[form]
        return report["input"]["size_bytes"], report["output"]["size_bytes"]


def prove(subject: Subject, folder: Path, forms: Sequence[str] = FORMS) -> Applied:
    """Plan the cut of a network by the command line, edit the plan, and apply it to forms of the network.

    Returns:
        what came of it, float32 always with it; files are left in the folder.
    """
    source, plan = Path(shutil.copy(subject.model, folder / "fp32.onnx")), folder / "plan.toml"
    onnxprune("plan", source, "--ratio", subject.ratio, "--criterion", "l2", "-o", plan)
    edited = edit(plan.read_text(encoding="utf-8"))
    plan.write_text(edited.text, encoding="utf-8")
    reports = {}
    for form in dict.fromkeys((FLOAT, *forms)):
        converted, report = convert(form, source, subject.samples), folder / f"{form}.json"
        onnxprune(
            "apply", plan, converted, "--criterion", "l2", "--no-latency",
            "-o", folder / f"small.{form}.onnx", "--report", report,
        )  # fmt: skip
        reports[form] = json.loads(report.read_text(encoding="utf-8"))
    return Applied(subject, edited, reports, read_by(source, _named(reports[FLOAT], edited.counted)["nodes"]))


def onnxprune(*arguments: object) -> None:
    """Run the command line, in this process.

    Raises:
        SystemExit: where it fails; has what it printed.
    """
    from click.testing import CliRunner

    from onnxprune.cli.group import cli

    words = [str(each) for each in arguments]
    ended = CliRunner().invoke(cli, words, prog_name="onnxprune")
    if ended.exit_code:
        raise SystemExit(f"onnxprune {' '.join(words)}: exit code {ended.exit_code}\n{ended.output}")


# -- forms -----------------------------------------------------------------------------------------------------


def convert(form: str, source: Path, samples: Path) -> Path:
    """Return the file of a form of a network, written beside it by ONNX Runtime's own tools, weights per channel."""
    if form == FLOAT:
        return source
    target = source.with_name(f"{form.replace(' ', '_')}.onnx")
    with _quietly():
        if form == "fp16":
            import onnx
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)
            return target
        from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static

        if form == "QDQ":
            quantize_static(source, target, _reader(source, samples), quant_format=QuantFormat.QDQ, per_channel=True)
        else:
            quantize_dynamic(source, target, per_channel=True)
    return target


def _reader(source: Path, samples: Path) -> Any:
    """Return what the quantizer reads samples from, all in one batch."""
    import numpy as np
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    names = [port.name for port in onnx.load(source, load_external_data=False).graph.input]
    with np.load(samples) as arrays:
        feeds = iter([{name: arrays[name][:CALIBRATED] for name in names}])

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        """Gives one batch."""

        def get_next(self) -> Any:
            return next(feeds, None)

    return Samples()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep to themselves what converters log and warn of: small numbers, a preprocessing of their own."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# -- what is held against what -------------------------------------------------------------------------------------


def missed(edited: Edited, report: Report) -> list[str]:
    """Return where a report of float32 says otherwise than the plan; the indices of a count alone are its own."""
    from onnxprune.planning.planned import as_ranges

    groups = {group["name"]: group for group in report["groups"]}
    told = []
    for each in planned(edited.text):
        kept = groups[each["name"]]["kept_units"]
        if len(kept) != each["keep"]:
            told.append(f"{each['name']} keeps {len(kept)} units, {each['keep']} are planned")
        elif each.get("kept", as_ranges(kept)) != as_ranges(kept):
            told.append(f"{each['name']} keeps {as_ranges(kept)}, {each['kept']} are planned")
    if groups[edited.whole]["kept"] != groups[edited.whole]["units"]:
        told.append(f"{edited.whole} lost units, and the plan says nothing of it")
    return told


def differences(base: Report, report: Report, counted: str, spared: Collection[str] = ()) -> list[str]:
    """Return where two forms of a network do not keep the same.

    Args:
        base: the report of float32.
        report: that of another form.
        counted: the group of which the plan has a count alone: other units of it may stay, as many.
        spared: weights that are not compared.
    """
    told = []
    if other_choice(base, report, counted) is None:
        one, other = _groups(base), _groups(report)
        told += [f"{count} groups keep {list(kept)} in {FLOAT} alone" for (_, kept), count in (one - other).items()]
        told += [f"{count} groups keep {list(kept)} here alone" for (_, kept), count in (other - one).items()]
    weights = ((name, *kept) for name, *kept in shared(base, report) if name not in spared)
    return told + [f"weight {name} keeps {theirs}, {own} in {FLOAT}" for name, own, theirs in weights if own != theirs]


def other_choice(base: Report, report: Report, counted: str) -> tuple[int, ...] | None:
    """Return the units that a count alone keeps in another form, where they, and nothing else, are other units."""
    one, other, group = _groups(base), _groups(report), _named(base, counted)
    own, theirs = list((one - other).elements()), list((other - one).elements())
    if own != [(group["units"], tuple(group["kept_units"]))] or len(theirs) != 1:
        return None
    ((units, kept),) = theirs
    return kept if (units, len(kept)) == (group["units"], group["kept"]) else None


def read_by(path: Path, names: Collection[str]) -> frozenset[str]:
    """Return the inputs of the nodes of a file that have these names."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return frozenset(name for node in nodes if node.name in names for name in node.input)


def shared(base: Report, report: Report) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the weights that are cut in both forms under one name, with the indices that each keeps of its axes."""
    own, theirs = _weights(base), _weights(report)
    for name, kept in own.items():
        there = theirs.get(name, theirs.get(f"{name}_quantized"))
        if there is not None:
            yield name, kept, there


def _named(report: Report, name: str) -> Mapping[str, Any]:
    group: Mapping[str, Any] = next(group for group in report["groups"] if group["name"] == name)
    return group


def _weights(report: Report) -> dict[str, Mapping[str, Any]]:
    return {cut["source"]: cut["kept"] for cut in report["initializers"].values()}


def _groups(report: Report) -> Counter[tuple[int, tuple[int, ...]]]:
    """Return the groups that lost units, by how many they had and which are kept; names differ between forms."""
    cut = (group for group in report["groups"] if group["kept"] < group["units"])
    return Counter((group["units"], tuple(group["kept_units"])) for group in cut)
