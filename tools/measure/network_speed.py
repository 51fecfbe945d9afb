"""Forward and backward of exported networks against the same networks in plain PyTorch: same weights, same threads.

    python tools/measure/network_speed.py [--names resnet50 vit_b_16 bert_base] [--runs 9] [--threads 1] [--clock cpu]

Needs torchvision and transformers, whose networks are built with random weights and exported. Both are run in turns on
the same inputs; the figure is the median of their ratios. `--clock cpu` counts the seconds of the process, for machines
that have other work.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from onnxprune.graph.files.read import load  # noqa: E402
from onnxprune.training.network.module import Network  # noqa: E402
from tools.pages.markdown import table  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def vision(name: str, batch: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a network of torchvision and an input."""
    importlib.import_module("tools.models.zoo")  # defines operators that torchvision asks for
    import torchvision

    return torchvision.models.get_model(name, weights=None), {"x": torch.randn(batch, 3, 224, 224)}


def bert(batch: int, length: int) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return BERT-base and tokens."""
    from transformers import BertConfig, BertModel

    network = BertModel(BertConfig(return_dict=False), add_pooling_layer=True)
    tokens = torch.randint(0, 30_000, (batch, length))
    return network, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


NETWORKS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, torch.Tensor]]]] = {
    "resnet50": lambda: vision("resnet50", 4),
    "vit_b_16": lambda: vision("vit_b_16", 2),
    "bert_base": lambda: bert(4, 128),
}


def exported(network: torch.nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> Network:
    """Return what onnxprune makes of the exported file."""
    names = list(inputs)
    torch.onnx.export(
        network, tuple(inputs.values()), str(path), input_names=names, opset_version=17, dynamo=False,
        dynamic_axes={name: {0: "batch"} for name in names},
    )  # fmt: skip
    return Network(load(path))


def passes(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Return the seconds of one forward and backward pass."""
    started = clock()
    outputs = call()
    values = list(outputs.values()) if isinstance(outputs, dict) else outputs
    values = [values] if isinstance(values, torch.Tensor) else values
    sum(value.square().mean() for value in values).backward()
    return clock() - started


def compare(name: str, runs: int, clock: Callable[[], float]) -> list[str]:
    """Return a row of the table."""
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]()
    network.eval()
    with tempfile.TemporaryDirectory() as folder:
        ours = exported(network, inputs, Path(folder) / "network.onnx")
    plain_pass = lambda: network(*inputs.values())  # noqa: E731
    our_pass = lambda: ours(inputs)  # noqa: E731
    with torch.no_grad():
        expected, outputs = plain_pass(), list(our_pass().values())
    first = expected if isinstance(expected, torch.Tensor) else expected[0]
    distance = float((outputs[0] - first).abs().max() / first.abs().max().clamp(min=1e-30))  # a ViT begins with zeros
    times: list[tuple[float, float]] = []
    for turn in range(runs + 1):
        order = (our_pass, plain_pass) if turn % 2 else (plain_pass, our_pass)
        seconds = [passes(call, clock) for call in order]
        times.append((seconds[0], seconds[1]) if turn % 2 else (seconds[1], seconds[0]))
    times = times[1:]  # the first warms up
    ratios = sorted(own / plain for own, plain in times)
    medians = [statistics.median(each) for each in zip(*times, strict=True)]
    cells = [f"{medians[1]:.2f}", f"{medians[0]:.2f}", f"{statistics.median(ratios):.2f}"]
    return [name, *cells, f"{ratios[0]:.2f} to {ratios[-1]:.2f}", f"{distance:.0e}"]


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    headings = ["network", "plain PyTorch, s", "onnxprune, s", "ratio", "of single runs", "largest difference"]
    rows = [compare(name, arguments.runs, CLOCKS[arguments.clock]) for name in arguments.names]
    print("\n".join(table(headings, rows)))


if __name__ == "__main__":
    main()
