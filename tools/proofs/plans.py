"""Prove that plans hold for other forms of a network: in other precisions, and as a module of PyTorch.

    python tools/proofs/plans.py precisions [--real DIR] [--only NAME]
    python tools/proofs/plans.py torch [--only NAME]

`precisions` plans the cut of a network in float32, edits the plan as a person would (a group keeps fewer units, one is
taken out, one has its indices listed), and applies it to that file, to it in half precision, and to both forms of eight
bits that ONNX Runtime's quantizer writes: the bundled models, and with DIR, what tools/models/real_models.py makes,
EfficientNet-Lite1 and MiniLM. It reads from the reports that each was proven and that all keep the same indices; of the
group that has a count alone, importance in each file says which stay, and the share that is the same is told.

`torch` exports networks of torchvision with random weights, prunes the files, cuts the modules by
`onnxprune.torch.apply`, and exports them again: the weights are those of the pruned file, bit for bit. It needs
torchvision, and onnxscript for one of the exporters.

What is proven on a commit is kept in ``--results`` and not run again; tables in Markdown are printed of all that is
there. The exit code is 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.git import measured_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402
from tools.proofs.planned import modules, precisions  # noqa: E402
from tools.proofs.planned.precisions import FLOAT, FORMS, Subject  # noqa: E402

BUNDLED = ("vit.onnx", "resnet_bn.onnx", "mobilenet.onnx")
REAL: Mapping[str, tuple[str, str, float]] = {  # by file: title, samples, ratio
    "efficientnet_lite1.onnx": ("EfficientNet-Lite1", "photos_calibration.npz", 0.3),
    "minilm.onnx": ("MiniLM", "text_calibration.npz", 0.4),
}
Record = dict[str, Any]


def subjects(real: Path | None) -> Iterator[Subject]:
    """Yield the networks whose plans are applied to other precisions."""
    models = ROOT / "models"
    for name in BUNDLED:
        yield Subject(f"`models/{name}`", models / name, models / "mnist_calibration.npz", 0.4)
    for name, (title, samples, ratio) in REAL.items() if real is not None else ():
        yield Subject(title, real / name, real / samples, ratio)


def precision_record(subject: Subject) -> Record:
    """Return what comes of a plan in all precisions, as it is kept."""
    with tempfile.TemporaryDirectory(prefix="plans-") as folder:
        applied = precisions.prove(subject, Path(folder))
    base = applied.reports[FLOAT]
    return {
        "title": f"{subject.title}, {subject.ratio}",
        "groups": sum(group["kept"] < group["units"] for group in base["groups"]),
        "weights": len(base["initializers"]),
        "named": {form: applied.by_name(form) for form in FORMS},
        "held": {form: len(list(precisions.shared(base, report))) for form, report in applied.reports.items()},
        "alike": {form: applied.alike(form) for form in FORMS},
        "sizes": {form: applied.sizes(form) for form in FORMS},
        "faults": applied.faults(),
    }


def module_record(name: str, exporter: str) -> Record:
    """Return what comes of a network of torchvision by an exporter, as it is kept."""
    import torch

    from tools.models import export_torchvision

    network, known = export_torchvision.build(name), modules.NETWORKS[name]
    torch.manual_seed(export_torchvision.SEED)
    example = export_torchvision.random_images(
        export_torchvision.TRACE_BATCH, export_torchvision.CLASSIFIERS[name].size
    )
    with tempfile.TemporaryDirectory(prefix="plans-") as folder:
        outcome = modules.prove(network, example, exporter, Path(folder), **known.options)
    return {**asdict(outcome), "title": known.title, "exporter": exporter, "faults": outcome.faults()}


# -- what is printed -----------------------------------------------------------------------------------------------


def precision_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of plans in other precisions."""
    others = FORMS[1:]
    listed = ", ".join(others)
    rows = [
        (
            each["title"],
            each["groups"],
            ", ".join(str(each["named"][form]) for form in others),
            f"{', '.join(str(each['held'][form]) for form in others)} of {each['weights']}",
            ", ".join(f"{each['alike'][form]:.3g}" for form in others),
            ", ".join(" → ".join(_megabytes(size) for size in each["sizes"][form]) for form in FORMS),
            f"`{each['commit']}`",
        )
        for each in records
    ]
    headings = [
        "Model, ratio",
        "groups cut",
        f"found by name: {listed}",
        f"weights that are compared: {listed}",
        f"units that a count alone keeps as in fp32: {listed}",
        f"MB before and after: {', '.join(FORMS)}",
        "commit",
    ]
    return table(headings, rows)


def module_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of networks that were cut in PyTorch."""
    rows = [
        (
            each["title"],
            each["exporter"],
            ", ".join(f"{kept} of {units} {kind}" for kind, (kept, units) in each["cut"].items()),
            " → ".join(f"{count / 1e6:.1f}" for count in each["params"]),
            each["weights"],
            "none" if each["apart"] == 0 else f"{each['apart']:.0e}",
            f"`{each['commit']}`",
        )
        for each in records
    ]
    headings = ["Network", "exporter", "kept", "million parameters", "equal weights", "outputs differ by", "commit"]
    return table(headings, rows)


def _megabytes(size: int) -> str:
    """Return bytes as megabytes, with three digits.

    >>> _megabytes(1_729_710), _megabytes(90_365_463)
    ('1.73', '90.4')
    """
    return f"{size / 1e6:.2f}" if size < 10e6 else f"{size / 1e6:.1f}"


LINES = {"precisions": precision_lines, "torch": module_lines}


# -- runs ----------------------------------------------------------------------------------------------------------


def runs(arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Yield the name of each run of a section and a function that makes its record."""
    if arguments.section == "precisions":
        for subject in subjects(arguments.real):
            if arguments.only in (None, subject.model.stem):
                yield subject.model.stem, lambda subject=subject: precision_record(subject)
        return
    for name, network in modules.NETWORKS.items():
        for exporter in network.exporters:
            if arguments.only in (None, name, f"{name}.{exporter}"):
                yield f"{name}.{exporter}", lambda name=name, exporter=exporter: module_record(name, exporter)


def main() -> int:
    """Prove a section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", choices=LINES)
    parser.add_argument("--real", type=Path, metavar="DIR", help="what tools/models/real_models.py makes")
    parser.add_argument("--only", metavar="NAME", help="such as vit, resnet18, or resnet18.dynamo")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "plans", metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    path, commit = arguments.results / f"{arguments.section}.json", measured_commit()
    records: dict[str, Record] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    asked = dict(runs(arguments))
    if not asked:
        parser.error(f"--only: no {arguments.only} in {arguments.section}")
    for name, record in asked.items():
        known = records.get(name)
        if known is None or known["commit"] != commit or known["faults"]:
            records[name] = {**record(), "commit": commit}
            path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        for fault in records[name]["faults"]:
            print(f"{name}: {fault}", file=sys.stderr)
    print("\n".join(LINES[arguments.section]([each for each in records.values() if not each["faults"]])))
    return 1 if any(records[name]["faults"] for name in asked) else 0


if __name__ == "__main__":
    sys.exit(main())
