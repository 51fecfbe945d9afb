"""The network of PyTorch against ONNX Runtime: numbers, gradients, and what is learned, on every graph of the zoo.

    python tools/measure/network.py [--rows ROWS.jsonl] [--page docs/measured/network.md] [--only TEXT]
        [--gradients 100] [--double] [--folder FOLDER]

Numbers: at two settings of the dynamic dims, the largest difference relative to the range of an output. Gradients: of
a random sum of the outputs, along random directions of up to four weights, against central differences of ONNX
Runtime, on graphs drawn by a seed; with `--double` also against those of the network itself in double precision, whose
outputs agree with ONNX Runtime: without the round-off that differences in single precision have. Learned: the share of
the numbers of single precision that are parameters. What is in ROWS.jsonl is not measured again; `--folder` adds every
*.onnx file below it. The page is written of the rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from onnx import ModelProto, helper  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from onnxprune.commands.steps.prepare import part_to_run  # noqa: E402
from onnxprune.errors import OnnxpruneError  # noqa: E402
from onnxprune.evaluation.settings import settings  # noqa: E402
from onnxprune.graph.files.encode import serialize  # noqa: E402
from onnxprune.graph.files.read import load  # noqa: E402
from onnxprune.graph.model import Model  # noqa: E402
from onnxprune.runtime.session import open_session  # noqa: E402
from onnxprune.training.network.agreement import TOLERANCE, check_agreement, difference_of, tolerance  # noqa: E402
from onnxprune.training.network.module import Network  # noqa: E402
from tests.support.zoo_store import load_zoo, read, refill  # noqa: E402
from tools.git import package_commit  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

SEED = 14
WEIGHTS = 4  # of a graph, along which derivatives are compared
STEPS = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)  # relative to the root mean square of a weight
FINE_STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # the same, of differences in double precision
FLOATS = ("float16", "bfloat16", "float32", "float64")
AGREED = 1e-3  # of the range of the outputs: within it double precision and ONNX Runtime compute the same function
LARGE = 1_000  # numbers of a constant that is listed where it is not learned
WRONG = 0.02  # of what a derivative usually is: beyond it round-off of the difference does not explain it


# -- one graph ---------------------------------------------------------------------------------------------------------


def numbers(model: Model, network: Network) -> dict[str, Any]:
    """Compare the outputs at two settings; see `onnxprune.training.network.agreement`."""
    session = open_session(serialize(model.proto), folder=model.folder, threads=1)
    cases = settings(model, session)[:2]
    agreements = [check_agreement(network, each.feeds) for each in cases]
    return {
        "differences": [each.difference for each in agreements],
        "noise": [each.noise for each in agreements],
        "limit": tolerance(model),
    }


def learned(model: Model, network: Network) -> dict[str, Any]:
    """Return how many numbers are parameters, and the large constants that are none, with who reads them."""
    floats = {
        name: each for name, each in model.constants.items() if each.dtype.kind == "f" or each.dtype.name == "bfloat16"
    }
    left = {name: each for name, each in floats.items() if name not in network.weights and each.count >= LARGE}
    readers = {
        name: sorted({f"{model.nodes[index].op}:{slot}" for index, slot in model.readers.get(name, ())})
        for name in left
    }
    return {
        "floats": sum(each.count for each in floats.values()),
        "parameters": sum(each.numel() for each in network.weights.values()),
        "left": {name: [left[name].count, *ops] for name, ops in readers.items()},
    }


def gradients(model: Model, network: Network, in_double: bool) -> dict[str, Any]:
    """Return how far derivatives along random directions lie from central differences.

    Args:
        model: a graph.
        network: of it.
        in_double: whether differences are also taken of the network in double precision.
    """
    rng = np.random.default_rng(SEED)
    session = open_session(serialize(model.proto), folder=model.folder, threads=1)
    feeds = settings(model, session)[0].feeds
    outputs = network(feeds)
    factors = _factors(outputs, rng)
    loss = sum((torch.from_numpy(factors[name]) * outputs[name].double()).sum() for name in factors)
    if not isinstance(loss, torch.Tensor) or not loss.requires_grad:
        return {"derivatives": {}, "why": "no output carries a gradient"}
    names = [name for name in network.weights if name in {each.name for each in model.proto.graph.initializer}]
    found = torch.autograd.grad(loss, [network.weights[name] for name in names], allow_unused=True)
    alive = [name for name, each in zip(names, found, strict=True) if each is not None and bool(each.any())]
    picked = sorted(rng.permutation(len(alive))[:WEIGHTS])
    by_name = dict(zip(names, found, strict=True))
    chosen = [alive[place] for place in picked]
    measure = _Differences(model, feeds, factors, chosen)
    directions = {name: rng.standard_normal(measure.weights[name].shape) for name in chosen}
    slopes = {name: by_name[name].double().numpy() for name in chosen}
    result: dict[str, Any] = {
        "derivatives": {name: measure.compare(name, slopes[name], directions[name]) for name in chosen}
    }
    if in_double:
        result |= _compared_in_double(_InDouble(model, feeds, factors, chosen), measure.run({}), slopes, directions)
    return result


def _compared_in_double(
    exact: _InDouble,
    outputs: Mapping[str, np.ndarray],
    slopes: Mapping[str, np.ndarray],
    directions: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Return how far derivatives lie from differences in double precision, and how far the outputs from `outputs`."""
    try:
        forward = exact.difference(outputs)
        return {"double_forward": forward, "double": {n: exact.compare(n, slopes[n], directions[n]) for n in slopes}}
    except OnnxpruneError as error:  # an operator that knows single precision alone
        return {"double": {}, "double_why": str(error)}


def _factors(outputs: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random factors of the outputs of numbers, such that each output weighs as much."""
    made = {}
    for name, value in outputs.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.requires_grad:
            continue
        array = value.detach().double().numpy()
        far = np.abs(array) > 1e8
        scale = float(np.sqrt(np.mean(np.where(far, 0, array) ** 2))) or 1.0
        made[name] = np.where(far, 0.0, rng.standard_normal(array.shape) / scale / np.sqrt(max(array.size, 1)))
    return made


class _Differences:
    """Central differences of a sum of outputs; the weights are inputs of the session."""

    steps: Sequence[float] = STEPS

    def __init__(
        self, model: Model, feeds: Mapping[str, Any], factors: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> None:
        self.weights = {name: model.array(name) for name in names}
        self.feeds, self.factors = feeds, factors
        self.session: Any = open_session(serialize(_opened(model.proto, names)), folder=model.folder, threads=1)

    def run(self, changed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the outputs with other numbers in some weights."""
        return self.session.run({**self.feeds, **self.weights, **changed})

    def loss(self, changed: Mapping[str, np.ndarray]) -> float:
        """Return the sum of the outputs times their factors."""
        results = self.run(changed)
        usable = ((factor, results[name].astype(np.float64)) for name, factor in self.factors.items())
        return float(sum((factor * np.where(factor == 0, 0, value)).sum() for factor, value in usable))

    def compare(self, name: str, gradient: np.ndarray, direction: np.ndarray) -> float:
        """Return |derivative - difference| over what a derivative along a random direction usually is."""
        weight = self.weights[name]
        size = float(np.sqrt(np.mean(weight.astype(np.float64) ** 2))) or 1.0
        usual = float(np.linalg.norm(gradient)) or 1e-30
        derivative = float((gradient * direction).sum())
        slopes = [self._slope(name, weight, direction, step * size) for step in self.steps]
        steadiest = min(range(len(slopes) - 1), key=lambda k: abs(slopes[k] - slopes[k + 1]))
        best = min(abs(slopes[k] - derivative) for k in (steadiest, steadiest + 1))
        return best / max(usual, abs(derivative))

    def _slope(self, name: str, weight: np.ndarray, direction: np.ndarray, step: float) -> float:
        up, down = ((weight + sign * step * direction).astype(weight.dtype) for sign in (1, -1))
        return (self.loss({name: up}) - self.loss({name: down})) / (2 * step)


class _InDouble(_Differences):
    """The same of the network in double precision."""

    steps = FINE_STEPS

    def __init__(
        self, model: Model, feeds: Mapping[str, Any], factors: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> None:
        self.weights = {name: model.array(name).astype(np.float64) for name in names}
        self.feeds, self.factors = {name: _widened(value) for name, value in feeds.items()}, factors
        self.network = Network(model)
        for name in model.constants:
            self.network._constants[name] = _widened(self.network.constant(name))
        self.own = {name: value.detach().double() for name, value in self.network.weights.items()}

    def run(self, changed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        replaced = {name: torch.from_numpy(value) for name, value in {**self.weights, **changed}.items()}
        with torch.no_grad(), _Doubled():
            results = self.network(self.feeds, weights={**self.own, **replaced})
        return {name: value.numpy() for name, value in results.items() if isinstance(value, torch.Tensor)}

    def difference(self, expected: Mapping[str, np.ndarray]) -> float:
        """Return how far the outputs lie from those of ONNX Runtime."""
        results = self.run({})
        return max(difference_of(torch.from_numpy(results[name]), expected[name]) for name in self.factors)


class _Doubled(TorchFunctionMode):
    """Lets PyTorch compute in double precision what is written down as single precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wide = [torch.float64 if each is torch.float32 else each for each in args]
        named = {name: torch.float64 if each is torch.float32 else each for name, each in (kwargs or {}).items()}
        result = (torch.Tensor.double if func is torch.Tensor.float else func)(*wide, **named)
        return _widened(result)


def _widened(value: Any) -> Any:
    """Return numbers of single precision in double precision."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float64) if value.dtype == np.float32 else value
    if isinstance(value, torch.Tensor):
        return value.to(torch.float64) if value.dtype == torch.float32 else value
    if type(value) in {tuple, list}:
        return type(value)(_widened(each) for each in value)
    return value


def _opened(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a model whose weights of these names are inputs."""
    opened = ModelProto()
    opened.CopyFrom(proto)
    tensors = {each.name: each for each in opened.graph.initializer if each.name in names}
    for name, tensor in tensors.items():
        opened.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        opened.graph.initializer.remove(tensor)
    return opened


# -- all of them -------------------------------------------------------------------------------------------------------


def graphs(folder: Path | None) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield name, exporter and what reads a graph."""
    for name, entry in load_zoo().items():
        yield name, entry.exporter, lambda entry=entry: refill(read(entry.path))
    for path in sorted(folder.rglob("*.onnx")) if folder else ():
        yield str(path.relative_to(folder)), "files", lambda path=path: path


def drawn(count: int) -> set[str]:
    """Return the graphs whose gradients are compared first, and spare ones for those of half precision."""
    names = sorted(load_zoo())
    order = np.random.default_rng(SEED).permutation(len(names))
    return {names[place] for place in order[: count + count // 4]}


def row(
    name: str, exporter: str, source: Callable[[], Any], with_gradients: bool, in_double: bool = False
) -> dict[str, Any]:
    """Measure one graph; what fails is a sentence."""
    started = time.process_time()
    result: dict[str, Any] = {"name": name, "exporter": exporter}
    try:
        model = part_to_run(load(source()), {})
        network = Network(model)
        result |= learned(model, network)
        result |= numbers(model, network)
        if with_gradients and result["limit"] == TOLERANCE:
            result |= gradients(model, network, in_double)
    except OnnxpruneError as error:
        result["error"] = f"{type(error).__name__}: {error}"
    return {**result, "seconds": round(time.process_time() - started, 2)}


def measure(rows: Path, only: str, count: int, folder: Path | None, in_double: bool = False) -> None:
    """Append what is missing to the rows; also to those that have no differences in double precision, if wanted."""
    lacking = {
        each["name"] for each in read_rows(rows) if in_double and each.get("derivatives") and "double" not in each
    }
    known = {each["name"] for each in read_rows(rows)} - lacking
    chosen = drawn(count)
    torch.set_num_threads(1)
    for name, exporter, source in graphs(folder):
        if name in known or only not in name:
            continue
        result = row(name, exporter, source, name in chosen, in_double)
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(name, result.get("error") or result["differences"], result["seconds"], flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, of graphs measured twice the last."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({each["name"]: each for each in map(json.loads, lines)}.values())


# -- the page ----------------------------------------------------------------------------------------------------------


def page(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# The network of PyTorch, measured"
    yield ""
    yield "Written by `tools/measure/network.py`, on graphs whose weights are drawn at random; the package at commit"
    yield f"{package_commit()}. What the network is and how it works: [network.md](../network.md)."
    yield from _numbers(rows)
    yield from _gradients(rows)
    yield from _learned(rows)


def _numbers(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    run = [each for each in rows if "error" not in each]
    loud = [each for each in run if _is_loud(each)]
    yield from ("", "## Numbers", "")
    yield f"{len(run)} of {len(rows)} graphs agree with ONNX Runtime at two settings of their dynamic dims:"
    yield f"{len(run) - len(loud)} within 1e-4 of the range of each output (1e-2 in half precision), the others within"
    yield "ten times the noise that round-off makes in ONNX Runtime alone, with each node agreeing on what ONNX Runtime"
    yield "feeds it."
    yield ""
    headings = ["exporter", "graphs", "agree", "within their noise", "do not", "largest difference that agrees"]
    yield from table(headings, [_exporter(name, rows) for name in sorted({each["exporter"] for each in rows})])
    if loud:
        yield from ("", "Graphs that amplify round-off:", "")
        cells = [[each["name"], f"{max(each['differences']):.1e}", f"{max(each['noise']):.1e}"] for each in loud]
        yield from table(["graph", "difference", "of ONNX Runtime alone"], cells)
    failed = [each for each in rows if "error" in each]
    if failed:
        yield from ("", "Graphs that do not:", "")
        yield from table(["graph", "why"], [[each["name"], each["error"].replace("|", "\\|")] for each in failed])


def _is_loud(each: dict[str, Any]) -> bool:
    return max(each["differences"]) > each["limit"]


def _exporter(name: str, rows: Sequence[dict[str, Any]]) -> list[object]:
    own = [each for each in rows if each["exporter"] == name]
    fine = [each for each in own if "error" not in each]
    inside = [each for each in fine if not _is_loud(each)]
    worst = max((max(each["differences"]) for each in inside), default=0.0)
    return [name, len(own), len(inside), len(fine) - len(inside), len(own) - len(fine), f"{worst:.1e}"]


def _gradients(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    compared = [each for each in rows if each.get("derivatives")]
    every = sorted(error for each in compared for error in each["derivatives"].values())
    if not every:
        return
    yield from ("", "## Gradients", "")
    yield f"{len(every)} derivatives of {len(compared)} graphs, along random directions of up to {WEIGHTS} weights,"
    yield "against central differences of ONNX Runtime in single precision. The error is relative to the norm of the"
    yield "gradient, which is what a derivative along a random direction usually is; the step is the steadiest of six."
    yield ""
    exact = sorted(error for each in compared for error in _doubles(each).values())
    shares = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "all": 1.0}
    cells = [
        [text, *(f"{side[min(len(side) - 1, int(part * len(side)))]:.1e}" for side in (every, exact) if side)]
        for text, part in shares.items()
    ]
    columns = ["of the derivatives", "error at most, against ONNX Runtime", "against double precision"]
    yield from table(columns[: 2 + bool(exact)], cells)
    if exact:
        yield ""
        yield f"In double precision: differences of the network itself for {len(exact)} of them, on the graphs where"
        yield f"its outputs in double precision agree with ONNX Runtime to {AGREED:.0e}. They tell whether what is left"
        yield "is round-off of differences in ONNX Runtime, or a wrong derivative."
    wrong = [(each, name, error) for each in compared for name, error in each["derivatives"].items() if error > WRONG]
    if wrong:
        yield from ("", f"Errors above {WRONG}:", "")
        rest = [
            [each["name"], f"`{name}`", f"{error:.1e}", _exact(each, name), f"{max(each['differences']):.1e}"]
            for each, name, error in wrong
        ]
        yield from table(["graph", "weight", "error", "against double precision", "difference of the outputs"], rest)


def _doubles(each: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the errors against differences in double precision, where these are of the same function."""
    return each.get("double") or {} if each.get("double_forward", 1.0) <= AGREED else {}


def _exact(each: Mapping[str, Any], name: str) -> str:
    error = _doubles(each).get(name)
    return "not compared" if error is None else f"{error:.1e}"


def _learned(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    known = [each for each in rows if each.get("floats")]
    if not known:
        return
    shares = sorted(each["parameters"] / each["floats"] for each in known)
    slots: dict[str, list[int]] = {}
    for each in known:
        for count, *readers in each["left"].values():
            slots.setdefault(", ".join(readers), []).append(count)
    yield from ("", "## What is learned", "")
    yield f"Of the numbers of float constants, over {len(known)} graphs: the median graph learns"
    yield f"{shares[len(shares) // 2]:.2%}; {sum(share > 0.999 for share in shares)} graphs learn more than 99.9 %."
    yield f"Constants of {LARGE:,} numbers and more that stay as they are, by the slots that read them:"
    yield ""
    order = sorted(slots.items(), key=lambda each: -sum(each[1]))[:40]
    yield from table(
        ["slots", "constants", "numbers"], [[text, len(counts), f"{sum(counts):,}"] for text, counts in order]
    )


def main() -> None:
    """Measure what is missing and write the page."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path("network.jsonl"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "measured" / "network.md")
    parser.add_argument("--only", default="", metavar="TEXT", help="graphs whose name contains this")
    parser.add_argument("--gradients", type=int, default=100, metavar="N", help="graphs whose gradients are compared")
    parser.add_argument("--double", action="store_true", help="compare gradients in double precision, too")
    parser.add_argument("--folder", type=Path, help="files beside the zoo")
    arguments = parser.parse_args()
    measure(arguments.rows, arguments.only, arguments.gradients, arguments.folder, arguments.double)
    arguments.page.write_text("\n".join(page(read_rows(arguments.rows))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
