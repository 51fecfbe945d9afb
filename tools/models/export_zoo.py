"""Export the graphs of tests/zoo: known architectures in small, by both of PyTorch's exporters, without weights.

    python tools/models/export_zoo.py [NAME ...] [--source timm ...] [--force] [--list]

A NAME is an architecture (`timm_vit`), a graph (`timm_vit.dynamo`) or a glob. Every graph is stripped of its weights,
filled again as the tests do (tests/support/zoo_store.py), checked by onnx, and run in ONNX Runtime on the two settings
that `onnxprune.evaluation.settings` finds; what passes is stored in tests/zoo, what fails is listed with the first
line of the error. Failures that are known stand in `zoo/failures.py` with their reasons. The exit code is 1 when
others failed.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from onnxprune.evaluation.settings import settings  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402 - of this tree
from onnxprune.graph.shapes.probe import settled  # noqa: E402
from onnxprune.graph.view import view  # noqa: E402 - of this tree
from onnxprune.runtime.session import open_session  # noqa: E402
from tests.support import zoo_store  # noqa: E402

SOURCES = ("torchvision", "timm", "transformers", "decoder", "handmade", "graphs")
MOST_PARAMS = 12_500_000
OF_THE_RUNTIME = ("genai",)  # exporters that put operators of ONNX Runtime into the domain of ONNX
OPSET = 17  # of the older exporter


def recipes(source: str) -> Mapping[str, Any]:
    """Return the recipes of one source by name."""
    by_name: Mapping[str, Any] = importlib.import_module(f"tools.models.zoo.{source}_models").RECIPES
    return by_name


# -- exporting ---------------------------------------------------------------------------------------------


def by_torchscript(specimen: Any) -> onnx.ModelProto:
    """Export with the older exporter, which traces."""
    import torch

    buffer = io.BytesIO()
    torch.onnx.export(
        specimen.module,
        tuple(specimen.feeds.values()),
        buffer,
        dynamo=False,
        opset_version=OPSET,
        input_names=list(specimen.feeds),
        dynamic_axes={name: dims for name, dims in specimen.dims.items() if dims},
    )
    return onnx.load_from_string(buffer.getvalue())


def by_dynamo(specimen: Any) -> onnx.ModelProto:
    """Export with the newer exporter, which captures; dims that it must fix become static."""
    import torch

    program = None
    for kind in ("named", "auto"):
        shapes = tuple(
            {i: name if kind == "named" else torch.export.Dim.AUTO for i, name in specimen.dims[feed].items()}
            for feed in specimen.feeds
        )
        try:
            program = torch.onnx.export(
                specimen.module,
                tuple(specimen.feeds.values()),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(specimen.feeds),
                verbose=False,
            )
            break
        except Exception:
            if kind == "auto":
                raise
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program.save(str(path), external_data=False)
        return onnx.load(path)


EXPORTERS = {"torchscript": by_torchscript, "dynamo": by_dynamo}


# -- checking and storing ------------------------------------------------------------------------------------


def checked(stored: onnx.ModelProto, is_standard: bool = True) -> onnx.ModelProto:
    """Return a stored graph, filled; raise when it is not valid, does not run, or computes nothing of interest.

    Args:
        stored: without weights.
        is_standard: whether onnx knows its ops; ONNX Runtime's optimiser puts some of its own into ONNX's domain.
    """
    proto = zoo_store.refill(stored)
    if is_standard:
        onnx.checker.check_model(proto)
    model = settled(load(proto) if is_standard else view(proto))
    if model.params > MOST_PARAMS:
        raise ValueError(f"{model.params:,} parameters are too many")
    session = open_session(proto.SerializeToString())
    lively = False
    for feeds in (each.feeds for each in settings(model, session)):
        for name, output in session.run(feeds).items():
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise ValueError(f"output {name!r} is not finite")
            lively = lively or bool(output.size > 1 and output.astype(np.float64).std() > 1e-4)
    if not lively:
        raise ValueError("all outputs are constant")
    return proto


def store(name: str, proto: onnx.ModelProto, **about: str) -> zoo_store.Entry:
    """Strip, check and write one graph; return its entry."""
    stored = zoo_store.strip(proto)
    model = view(checked(stored, "+ort" not in about["exporter"] and about["exporter"] not in OF_THE_RUNTIME))
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    dims = dict.fromkeys(str(dim) for port in model.inputs for dim in port.shape or () if not isinstance(dim, int))
    entry = zoo_store.Entry(
        name=name,
        opset=opset,
        dynamic=" ".join(dims),
        params=model.params,
        nodes=len(model.nodes),
        **about,
    )
    zoo_store.ZOO.mkdir(exist_ok=True)
    entry.path.write_bytes(zoo_store.pack(stored))
    return entry


def add(entry: zoo_store.Entry) -> None:
    """Put an entry into the index; several runs of this script may do so at once."""
    with (zoo_store.ZOO / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        zoo_store.save_zoo({**zoo_store.load_zoo(), entry.name: entry})


def first_line(error: BaseException) -> str:
    """Return the class and the first line of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def wanted(args: argparse.Namespace) -> Iterator[tuple[str, str, str, Any]]:
    """Yield source, name of the graph, exporter and recipe of what was asked for."""
    for source in args.source or SOURCES:
        for name, recipe in recipes(source).items():
            for exporter in recipe.exporters:
                graph = f"{name}.{exporter}"
                if not args.names or any(fnmatchcase(n, p) for p in args.names for n in (name, graph)):
                    yield source, graph, exporter, recipe


def export(source: str, graph: str, exporter: str, recipe: Any) -> zoo_store.Entry:
    """Export, check and store one graph."""
    made = recipe.make()
    if isinstance(made, onnx.ModelProto):
        return store(graph, made, source=source, exporter=exporter, original=made.graph.name, config="")
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        proto = EXPORTERS[exporter](made)
    return store(graph, proto, source=source, exporter=exporter, original=made.original, config=made.config)


def parsed() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--source", action="append")
    parser.add_argument("--force", action="store_true", help="export again what is stored already")
    parser.add_argument("--list", action="store_true", help="only print the names")
    return parser.parse_args()


def main() -> int:
    """Export what is asked for; return the exit code."""
    from tools.models.zoo.failures import KNOWN

    args = parsed()
    failed = {}
    for source, graph, exporter, recipe in wanted(args):
        if args.list or (not args.force and graph in zoo_store.load_zoo()):
            print(graph, "(stored)" if graph in zoo_store.load_zoo() else "")
            continue
        start = time.perf_counter()
        try:
            entry = export(source, graph, exporter, recipe)
        except Exception as error:
            failed[graph] = first_line(error)
            print(f"FAILED {graph}: {failed[graph]}", flush=True)
            continue
        add(entry)
        size = entry.path.stat().st_size
        print(f"{graph}: {entry.params:,} parameters, {entry.nodes} nodes, {size:,} bytes, "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
    unknown = sorted(set(failed) - set(KNOWN))
    print(f"{len(failed)} failed, {len(unknown)} of them not known: {' '.join(unknown)}")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
