"""Proof that two checkouts of the project do the same: equal runs give equal files, reports, texts and exit codes.

    python tools/proofs/same_bytes.py record --checkout OLD --out before.json
    python tools/proofs/same_bytes.py record --checkout NEW --out after.json
    python tools/proofs/same_bytes.py compare before.json after.json

`record` performs the runs of the tables below with the package of a checkout, through its command line and its public
functions alone, so that the inside of the package may look as it likes. It goes on where it stopped: a run that was
recorded from the same commit, files and commands stays. It exits with 1 where a step ends with another exit code than
its table says, which is recorded all the same. `compare` prints a line for each run that differs, with the first place
where it does, and exits with 1 if any does.

What may differ between two runs of one checkout is taken out before anything is compared: times, versions, temporary
paths. The rest must be equal to the last bit. That needs one machine, and the same releases of numpy and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import gzip
import hashlib
import inspect
import itertools
import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

LONGEST_S = 300  # of one step
STAMP = 1_700_000_000  # time of change of all inputs: records of sweeps tell it

# -- the runs --------------------------------------------------------------------------------------------
#
# A name, and the steps of the run, each in the same folder after the one before. A step is a command line of onnxprune,
# or `call NAME`: a function of this file that uses the package from Python. ` -> 2` is the exit code where it is not 0.
# Inputs are told by their paths: models/ is that of the checkout, zoo/ its graphs with seeded weights, made/ is made
# here, see `MADE`.

SMALL = "--no-latency -o small.onnx --report small.json"
DIGITS = "--data made/digits.npz --samples 64"  # labelled
UNLABELLED = "--data models/mnist_calibration.npz --samples 64"

WITH_DATA = {
    "cnn, obs": f"prune models/cnn.onnx {UNLABELLED} {SMALL}",
    "resnet_bn, target of MACs": f"prune models/resnet_bn.onnx --target macs=0.6 {DIGITS} {SMALL}",
    "resnet_folded, target of parameters": f"prune models/resnet_folded.onnx --target params=200000 {UNLABELLED} "
    f"--eval-data made/digits.npz {SMALL}",
    "mobilenet, two targets": f"prune models/mobilenet.onnx --target macs=0.75 --target size=0.9 {UNLABELLED} {SMALL}",
    "vit, obs, all test data": f"models/vit.onnx --ratio 0.3 --data models/mnist_test.npz --samples 48 {SMALL}",
    "vit, hidden width": f"prune models/vit.onnx --width --ratio 0.2 {DIGITS} {SMALL}",
    "vit, target of size": f"prune models/vit.onnx --target size=1.2MB {UNLABELLED} --quiet {SMALL}",
    "vit, wanda, JSON": f"prune models/vit.onnx --criterion wanda {UNLABELLED} --json {SMALL}",
    "cnn, flap": f"prune models/cnn.onnx --criterion flap --ratio 0.4 {UNLABELLED} {SMALL}",
    "resnet_bn, activation": f"prune models/resnet_bn.onnx --criterion activation {UNLABELLED} --no-batch-norm {SMALL}",
    "cnn, apoz, all samples": "prune models/cnn.onnx --criterion apoz --data made/digits.npz --samples 0 --seed 3 "
    f"{SMALL}",
    "mobilenet, wanda, loss scope": f"prune models/mobilenet.onnx --criterion wanda --scope loss {UNLABELLED} {SMALL}",
    "resnet_bn, obs, group scope": f"prune models/resnet_bn.onnx --scope group --sweeps 2 {UNLABELLED} {SMALL}",
    "mobilenet, obs, global scope": f"prune models/mobilenet.onnx --scope global --no-reconstruct {UNLABELLED} {SMALL}",
    "resnet_folded, ratios by glob": "prune models/resnet_folded.onnx --ratio 0.2 --ratio 'stage3*=0.5' "
    f"--ignore 'stem*' {UNLABELLED} {SMALL}",
    "mobilenet, l1 with data": f"prune models/mobilenet.onnx --criterion l1 --round-to 4 {DIGITS} {SMALL}",
    "resnet_bn, metric dense": f"prune models/resnet_bn.onnx --metric dense --min-units 24 {DIGITS} {SMALL}",
    "vit, metric embedding": f"prune models/vit.onnx --metric embedding --only '*expand*' {UNLABELLED} {SMALL}",
    "resnet_bn, metric of a function": "prune models/resnet_bn.onnx --metric made.feeds:top3 --only 'stage1*' "
    f"{DIGITS} {SMALL}",
    "mobilenet, data of a function": f"prune models/mobilenet.onnx --data made.feeds:samples --seed 5 {SMALL}",
    "cnn, folder of images": f"prune models/cnn.onnx --data made/photos --preprocess unit --criterion wanda {SMALL}",
    "cnn, folder of arrays": f"prune models/cnn.onnx --data made/arrays --criterion l2 {SMALL}",
}

WITHOUT_DATA = {
    "vit, generated samples": f"models/vit.onnx --only '*0.expand*' --only '*1.attention*' {SMALL}",
    "mobilenet, generated, compared on data": f"models/mobilenet.onnx --eval-data made/digits.npz {SMALL}",
    "resnet_bn, l2": f"prune models/resnet_bn.onnx --criterion l2 {SMALL}",
    "resnet_bn, l2, global": f"prune models/resnet_bn.onnx --criterion l2 --scope global --round-to 1 {SMALL}",
    "resnet_bn, bn": f"prune models/resnet_bn.onnx --criterion bn --target macs=0.5 {SMALL}",
    "resnet_folded, fpgm": f"prune models/resnet_folded.onnx --criterion fpgm --ratio 0 --ratio 'stage2*=0.4' {SMALL}",
    "vit, random": f"prune models/vit.onnx --criterion random --seed 7 --width {SMALL}",
    "weights in a file beside it": f"prune made/outside.onnx --criterion l2 {SMALL}",
    "in the place of the input": "prune models/cnn.onnx --criterion l1 --no-latency -o models/cnn.onnx --force --json",
    "local functions": f"prune made/functions.onnx --ratio 0.5 {SMALL}",
    "weights in blocks": f"prune made/blocks.onnx --criterion l2 --ratio 0.5 {SMALL}",
    "half precision": f"prune made/half_vit.onnx --criterion l2 {SMALL}",
    "quantized, QDQ": f"prune made/quantized_qdq.onnx --ratio 0.5 {UNLABELLED} {SMALL}",
    "quantized, integer operators": f"prune made/quantized_integer.onnx --criterion l2 {SMALL}",
    "quantized, dynamic": f"prune made/quantized_dynamic.onnx --criterion l2 {SMALL}",
}

OF_THE_ZOO = {
    "residual CNN, dynamo": f"prune zoo/hf_resnet.dynamo.onnx {SMALL}",
    "CNN of Keras, channels last": f"prune zoo/keras_separable.tf2onnx.onnx --criterion fpgm {SMALL}",
    "dense blocks": f"prune zoo/tv_densenet.dynamo.onnx --criterion l2 --ratio 0.5 {SMALL}",
    "channel shuffle": f"prune zoo/tv_shufflenet_v2.dynamo.onnx --criterion l1 {SMALL}",
    "squeeze-excite, fused": "prune zoo/timm_mobilenetv3_small_050.torchscript.ort_extended.onnx --criterion l2 "
    f"--input image=1,3,64,64 {SMALL}",
    "channels last, fused": f"prune zoo/graph_nhwc.handmade.ort_extended.onnx --criterion l1 {SMALL}",
    "depth to space": f"prune zoo/graph_depth_to_space_dcr.handmade.onnx --criterion l2 {SMALL}",
    "convolutions in 3D": f"prune zoo/own_unet_3d.torchscript.onnx --criterion l1 {SMALL}",
    "deformable convolution": f"prune zoo/graph_deform_conv.handmade.onnx --criterion l2 {SMALL}",
    "vision transformer, dynamo": f"prune zoo/hf_vit.dynamo.onnx --data made/pixel_values.npz {SMALL}",
    "vision transformer, TorchScript": f"prune zoo/hf_vit.torchscript.onnx --criterion l2 --width {SMALL}",
    "vision transformer, fused": f"prune zoo/timm_vit_tiny_patch16_224.dynamo.ort_extended.onnx --criterion l1 {SMALL}",
    "swin": f"prune zoo/hf_swin.dynamo.onnx --criterion l2 --ratio 0.5 {SMALL}",
    "detector, YOLO": f"prune zoo/own_yolo8.dynamo.onnx --criterion l2 {SMALL}",
    "detector, DETR": f"prune zoo/hf_detr.torchscript.onnxslim.onnx --criterion wanda --metric boxes "
    f"--data made/views.npz {SMALL}",
    "If": f"prune zoo/graph_if_branches.handmade.onnx --ratio 0.5 {SMALL}",
    "Loop": f"prune zoo/graph_loop_refine.handmade.onnx --ratio 0.5 {SMALL}",
    "Scan": f"prune zoo/graph_scan_rnn.handmade.onnx --data made/steps.npz --metric dense {SMALL}",
    "experts by TopK": f"prune zoo/own_experts_topk.torchscript.onnx {SMALL}",
    "GRU": f"prune zoo/own_gru.torchscript.onnx {SMALL}",
    "LSTM, two directions": f"prune zoo/own_bilstm.dynamo.onnx --criterion l2 {SMALL}",
    "LSTM, fused": f"prune zoo/own_lstm.torchscript.ort_extended.onnx --data made/ids.npz {SMALL}",
    "RNN": f"prune zoo/own_rnn.torchscript.onnx --criterion l2 --scope global {SMALL}",
    "language model, GPT-2": f"prune zoo/hf_gpt2.dynamo.onnx --metric language-model --data made/words.npz {SMALL}",
    "language model, Llama, fused": "prune zoo/hf_llama.dynamo.ort_extended.onnx --target params=0.8 "
    f"--criterion l2 {SMALL}",
    "language model, T5": f"prune zoo/hf_t5.dynamo.onnx --criterion l2 --width {SMALL}",
    "language model, BERT, fused": f"prune zoo/hf_bert.torchscript.ort_extended.onnx --data made/words.npz {SMALL}",
    "speech, fused": f"prune zoo/hf_wav2vec2.torchscript.ort_extended.onnx --criterion l1 {SMALL}",
    "two towers": f"prune zoo/own_siamese.torchscript.onnx {SMALL}",
    "recommender": f"prune zoo/own_dlrm.dynamo.onnx --ratio 0.5 {SMALL}",
    "scikit-learn": f"prune zoo/graph_sklearn_pipeline.skl2onnx.onnx --criterion l2 {SMALL}",
    "diffusion transformer": f"prune zoo/own_dit.dynamo.onnx --criterion l2 {SMALL}",
}

LOOKS = {
    "inspect the bundled ones": (
        *(f"inspect models/{name}.onnx" for name in ("cnn", "resnet_bn", "resnet_folded", "mobilenet", "vit")),
        "inspect models/vit.onnx --json",
    ),
    "inspect swin": ("inspect zoo/tv_swin.dynamo.onnx", "inspect zoo/tv_swin.dynamo.onnx --json"),
    "inspect detectors": (
        "inspect zoo/own_yolo5.torchscript.onnxsim.onnx --json",
        "inspect zoo/hf_detr.torchscript.onnxslim.onnx",
    ),
    "inspect several towers": (
        "inspect zoo/hf_whisper.torchscript.ort_extended.onnx --json",
        "inspect zoo/hf_clip.torchscript.onnxslim.onnx",
    ),
    "inspect grouped queries": "inspect zoo/own_attention_gqa_group.dynamo.onnx --json",
    "inspect quantized ones": ("inspect made/quantized_integer.onnx", "inspect made/quantized_dynamic.onnx --json"),
}

_CUT = "prune models/cnn.onnx --criterion l2 --ratio 0.4 --no-latency --quiet -o small.onnx"
COMPARISONS = {
    "compare on data": (_CUT, "compare models/cnn.onnx small.onnx --data made/digits.npz --seconds 0.1"),
    "compare on random feeds, JSON": (_CUT, "compare models/cnn.onnx small.onnx --seconds 0.1 --json --quiet"),
    "compare, bounds that are met": "compare models/resnet_bn.onnx models/resnet_folded.onnx --data made/digits.npz "
    "--seconds 0.1 --max-drop 0.5 --min-speedup 0.0001 --report found.json",
    "compare, bounds that are missed": (
        f"{_CUT} --ratio 0.8",
        "compare models/cnn.onnx small.onnx --data made/digits.npz --seconds 0.1 --max-drop 0.001 --min-speedup 1000 "
        "--report found.json -> 1",
    ),
    "compare, other threads and batches": (
        _CUT,
        "compare models/cnn.onnx small.onnx --seconds 0.1 --sweep-threads 1,2 --sweep-batch 1,3 --plot found.html "
        "--report found.json",
        "compare models/cnn.onnx small.onnx --seconds 0.1 --plot found.svg --quiet",
    ),
    "compare language models": (
        "prune zoo/hf_gpt2.dynamo.onnx --criterion l2 --no-latency --quiet -o small.onnx",
        "compare zoo/hf_gpt2.dynamo.onnx small.onnx --data made/words.npz --metric language-model --seconds 0.1 --json",
    ),
}

SENSITIVITIES = {
    "sensitivity of vit": f"sensitivity models/vit.onnx {UNLABELLED} --levels 3 --report found.json --plot found.html",
    "sensitivity of resnet_folded, drawn": (
        f"sensitivity models/resnet_folded.onnx {DIGITS} --plot found.svg",
        f"sensitivity models/resnet_folded.onnx {DIGITS} --levels 2 --plot found.png --json --quiet",
    ),
    "sensitivity of resnet_bn, not refitted": "sensitivity models/resnet_bn.onnx --no-reconstruct --only 'stage*' "
    f"--ignore 'stage3*' --round-to 16 --eval-data made/digits.npz {UNLABELLED} --seed 2",
    "sensitivity in two processes": f"sensitivity models/mobilenet.onnx {UNLABELLED} --levels 2 --workers 2 --json",
    "sensitivity of a language model": "sensitivity zoo/hf_llama.dynamo.ort_extended.onnx --data made/words.npz "
    "--width --levels 2",
}

SWEEPS = {
    "sweep of MACs": f"sweep models/vit.onnx --macs 0.8,0.5 {DIGITS} --no-latency -o family",
    "sweep that goes on": (
        "sweep models/resnet_folded.onnx --params 0.8 --criterion l2 --no-latency -o family",
        "sweep models/resnet_folded.onnx --params 0.8,0.6 --criterion l2 --no-latency -o family",
        "sweep models/resnet_folded.onnx --params 0.8 --criterion l1 --no-latency --resume -o family -> 2",
    ),
    "sweep in two processes": f"sweep models/resnet_bn.onnx --ratios 0.2,0.5 {UNLABELLED} --workers 2 --no-latency "
    "--json -o family",
    "sweep of sizes, generated samples": "sweep zoo/own_gru.torchscript.onnx --size 0.9,0.7 --no-latency -o family",
    "sweep with a value that asks for nothing": (
        "sweep models/cnn.onnx --macs 900M,0.7 --criterion l2 --no-latency -o family",
        "sweep models/cnn.onnx --macs 900M,800M --criterion l2 --no-latency -o other -> 3",
    ),
}

REFUSALS = {
    "nothing to prune": (
        f"prune models/cnn.onnx --criterion l2 --only 'head*' {SMALL} -> 3",
        f"prune models/cnn.onnx --criterion l2 --ignore '*' {SMALL} -> 3",
        f"prune models/cnn.onnx --criterion l2 --target macs=900M {SMALL} -> 3",
        f"sensitivity models/cnn.onnx {DIGITS} --only 'head*' -> 3",
    ),
    "bad options": (
        f"prune models/cnn.onnx --ratio 1.5 {SMALL} -> 2",
        f"prune models/cnn.onnx --ratio a=b {SMALL} -> 2",
        f"prune models/cnn.onnx --criterion l3 {SMALL} -> 2",
        f"prune models/cnn.onnx --scope all {SMALL} -> 2",
        f"prune models/cnn.onnx --round-to 0 {SMALL} -> 2",
        f"prune models/cnn.onnx --min-units zero {SMALL} -> 2",
        f"prune models/cnn.onnx --input image=1,x {SMALL} -> 2",
        f"prune models/cnn.onnx --metric fancy {DIGITS} {SMALL} -> 2",
        f"prune models/cnn.onnx --colour red {SMALL} -> 2",
        f"prune models/cnn.onnx --only 'nowhere*' {SMALL} -> 2",
    ),
    "bad targets": (
        f"prune models/cnn.onnx --target weight=0.5 {SMALL} -> 2",
        f"prune models/cnn.onnx --target macs {SMALL} -> 2",
        f"prune models/cnn.onnx --target macs=0.5 --ratio 0.5 {SMALL} -> 2",
        f"prune models/cnn.onnx --target macs=0.001 --criterion l2 {SMALL} -> 2",
        "sweep models/cnn.onnx --no-latency -o family -> 2",
        "sweep models/cnn.onnx --macs 0.5,0.5 --no-latency -o family -> 2",
    ),
    "options without effect": (
        f"prune models/cnn.onnx --samples 9 {SMALL} -> 2",
        f"prune models/cnn.onnx --metric dense {SMALL} -> 2",
        f"prune models/cnn.onnx --preprocess unit {SMALL} -> 2",
        f"prune models/cnn.onnx --sweeps 2 --no-reconstruct {DIGITS} {SMALL} -> 2",
        "compare models/cnn.onnx models/cnn.onnx --max-drop 0.1 -> 2",
        "sensitivity models/cnn.onnx -> 2",
    ),
    "bad models": (
        f"prune made/truncated.onnx {SMALL} -> 2",
        f"prune made/text.onnx {SMALL} -> 2",
        f"prune made/empty.onnx {SMALL} -> 2",
        f"prune made/old_opset.onnx {SMALL} -> 2",
        "inspect made/text.onnx -> 2",
        "inspect nowhere.onnx -> 2",
        "compare models/cnn.onnx zoo/own_gru.torchscript.onnx --seconds 0.1 -> 2",
    ),
    "bad data": (
        f"prune models/cnn.onnx --data nowhere.npz {SMALL} -> 2",
        f"prune models/cnn.onnx --data made/nan.npz {SMALL} -> 2",
        f"prune models/cnn.onnx --data made/other_name.npz {SMALL} -> 2",
        f"prune models/cnn.onnx --data made/other_shape.npz {SMALL} -> 2",
        f"prune models/cnn.onnx --data made/photos --preprocess strange {SMALL} -> 2",
        f"prune models/cnn.onnx --data made.feeds:nothing {SMALL} -> 2",
        f"prune models/cnn.onnx --data made.feeds:failing {SMALL} -> 2",
    ),
    "bad outputs": (
        f"prune models/cnn.onnx --criterion l2 {SMALL}",
        f"prune models/cnn.onnx --criterion l2 {SMALL} -> 2",
        "prune models/cnn.onnx --criterion l2 --no-latency -o models/cnn.onnx -> 2",
        "prune models/cnn.onnx --criterion l2 --no-latency -o nowhere/small.onnx -> 2",
        "prune models/cnn.onnx --criterion l2 --no-latency -> 2",
        f"sensitivity models/cnn.onnx {DIGITS} --plot found.gif -> 2",
    ),
    "help": (
        "--help",
        *(f"{command} --help" for command in ("prune", "inspect", "compare", "sensitivity", "sweep")),
        "--version",
        "inspct models/cnn.onnx -> 2",
    ),
}

IN_PYTHON = {
    "Python: names and signatures": "call names_and_signatures",
    "Python: prune a proto": "call prune_a_proto",
    "Python: prune a graph of GraphSurgeon": "call prune_a_graph",
    "Python: prune on an iterable": "call prune_on_an_iterable",
    "Python: inspect a proto": "call inspect_a_proto",
    "Python: compare protos": "call compare_protos",
    "Python: sensitivity": "call sensitivity_on_arrays",
    "Python: sweep": "call sweep_a_proto",
    "Python: errors": "call errors",
}

TABLES = (WITH_DATA, WITHOUT_DATA, OF_THE_ZOO, LOOKS, COMPARISONS, SENSITIVITIES, SWEEPS, REFUSALS, IN_PYTHON)


@dataclass(frozen=True)
class Step:
    """A command of a run."""

    arguments: tuple[str, ...]  # behind `python -m onnxprune`, or `call` and the name of a function of this file
    exit_code: int  # that is expected

    @property
    def command(self) -> str:
        """What it is: a command of onnxprune, `prune` where none is named; or `call`, or `help`."""
        if "--help" in self.arguments:
            return "help"
        named = ("inspect", "compare", "sensitivity", "sweep", "call")
        return self.arguments[0] if self.arguments[0] in named else "prune"


@dataclass(frozen=True)
class Run:
    """Commands in one folder, one after the other."""

    name: str
    lines: tuple[str, ...]  # the steps, as the tables have them

    @property
    def steps(self) -> list[Step]:
        """The steps, taken apart."""
        found = []
        for line in self.lines:
            command, _, code = line.partition(" -> ")
            found.append(Step(tuple(shlex.split(command)), int(code or 0)))
        return found

    @property
    def inputs(self) -> list[str]:
        """The files and folders that it reads, by their paths in its folder."""
        text = self._told()
        found = re.findall(r"\b(?:models|zoo|made)/[\w./-]+", text)
        return sorted({*found, *(f"made/{name}.py" for name in re.findall(r"\bmade\.(\w+):", text))})

    @property
    def key(self) -> str:
        """What is another one when the run is: by its commands, and by how this file makes its inputs."""
        names = [name.removeprefix("made/") for name in self.inputs]
        makers = [inspect.getsource(MADE[name]) for name in names if name in MADE]
        return digest("\n".join([self._told(), FEEDS, *makers, *(str(ARRAYS.get(name)) for name in names)]).encode())

    def _told(self) -> str:
        """Return the steps, and the functions of this file that they call."""
        called = [step.arguments[1] for step in self.steps if step.command == "call"]
        return "\n".join([*self.lines, *(inspect.getsource(CALLS[name]) for name in called)])


def all_runs() -> list[Run]:
    """Return the runs of all tables."""
    named = [(name, lines) for table in TABLES for name, lines in table.items()]
    return [Run(name, (lines,) if isinstance(lines, str) else tuple(lines)) for name, lines in named]


# -- runs in Python --------------------------------------------------------------------------------------
#
# Each is called in a process of its own, in a folder that holds the inputs that it names.

CALLS: dict[str, Callable[[], None]] = {}


def called(function: Callable[[], None]) -> Callable[[], None]:
    """Let `call NAME` in a table mean this function."""
    CALLS[function.__name__] = function
    return function


def show(value: Any) -> None:
    """Print plain values as JSON."""
    print(json.dumps(value, indent=1, default=str))


@called
def names_and_signatures() -> None:
    """What the package offers: functions with their parameters, classes with their fields, errors with their bases."""
    import dataclasses

    import onnxprune

    for name in sorted(onnxprune.__all__):
        thing = getattr(onnxprune, name)
        print(f"{name}: {type(thing).__name__}")
        if inspect.isfunction(thing):
            for each in inspect.signature(thing).parameters.values():
                print(f"  {each.replace(annotation=inspect.Parameter.empty)}, {each.kind.description}")
        elif dataclasses.is_dataclass(thing):
            print(*[f"  {field.name}" for field in dataclasses.fields(thing)], sep="\n")
        elif inspect.isclass(thing) and issubclass(thing, Exception):
            print(f"  {[base.__name__ for base in thing.__mro__]}, exit code {getattr(thing, 'exit_code', None)}")


@called
def prune_a_proto() -> None:
    """A model in memory, which is not changed; samples as arrays."""
    import numpy as np
    import onnx

    import onnxprune

    proto = onnx.load("models/resnet_bn.onnx")
    before = proto.SerializeToString(deterministic=True)
    data = dict(np.load("made/digits.npz"))
    result = onnxprune.prune(proto, targets={"macs": 0.6}, data=data, samples=48, latency=False, ignore="stem*")
    show(result.report)
    print(result.save("small.onnx"), result.external, proto.SerializeToString(deterministic=True) == before)


@called
def prune_a_graph() -> None:
    """A graph of GraphSurgeon, by weights alone, with a ratio for some of its groups."""
    import onnx
    import onnx_graphsurgeon

    import onnxprune

    graph = onnx_graphsurgeon.import_onnx(onnx.load("models/resnet_bn.onnx"))
    ratios = {"stage1*": 0.5, "stage3*": 0.1}
    result = onnxprune.prune(graph, 0.0, ratios=ratios, criterion="l2", round_to=4, latency=False, only=["stage*"])
    show(result.report)
    result.save("small.onnx")


@called
def prune_on_an_iterable() -> None:
    """Samples from a generator, others to compare on, and a function that compares, by its name."""
    import numpy as np

    import onnxprune

    held = np.load("made/digits.npz")

    def pairs() -> Iterator[tuple[Any, Any]]:
        for start in range(0, 60, 20):
            yield held["image"][start : start + 20], held["labels"][start : start + 20]

    result = onnxprune.prune(
        "models/mobilenet.onnx",
        0.2,
        data=pairs(),
        eval_data=dict(held),
        metric="made.feeds:top3",
        criterion="flap",
        latency=False,
    )
    show(result.report)
    result.save("small.onnx")


@called
def inspect_a_proto() -> None:
    """Groups, locks and nodes of a model in memory."""
    import onnx

    import onnxprune

    found = onnxprune.inspect(onnx.load("zoo/hf_gpt2.torchscript.onnxslim.onnx"))
    show(found.to_dict())
    show({reason: [group.name for group in groups] for reason, groups in found.locks.items()})


@called
def compare_protos() -> None:
    """Two models side by side, without memory and without details, by a function."""
    import numpy as np
    import onnx

    import onnxprune

    def apart(reference: Any, outputs: Any, feeds: Any, labels: Any) -> dict[str, float]:
        right = (outputs["logits"].argmax(1) == labels).mean()
        return {"right": float(right), "far": float(np.abs(outputs["logits"] - reference["logits"]).mean())}

    result = onnxprune.prune("models/vit.onnx", 0.2, criterion="l2", latency=False)
    settings = {"budget_s": 0.1, "memory": False, "detail": False, "metric": apart}
    found = onnxprune.compare(onnx.load("models/vit.onnx"), result.model, data="made/digits.npz", **settings)
    show(found.to_dict())


@called
def sensitivity_on_arrays() -> None:
    """Losses of groups, in two processes of an executor."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import numpy as np

    import onnxprune

    images = np.load("models/mnist_calibration.npz")["image"][:48]
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        found = onnxprune.sensitivity("models/vit.onnx", data=images, levels=3, executor=executor)
    show(found.to_dict())
    print([group.name for group in found.protect], [group.name for group in found.free])


@called
def sweep_a_proto() -> None:
    """A family of a model in memory."""
    import numpy as np
    import onnx

    import onnxprune

    data = dict(np.load("made/digits.npz"))
    model = onnx.load("models/mobilenet.onnx")
    family = onnxprune.sweep(model, "family", "ratio", [0.1, 0.3], data=data, samples=48, latency=False)
    show(family.summary)
    print(*family.members)


@called
def errors() -> None:
    """The kinds of errors, and what they say."""
    import numpy as np
    import onnx

    import onnxprune

    cnn, plain = "models/cnn.onnx", {"criterion": "l2", "latency": False}
    broken = onnx.load(cnn)
    del broken.graph.node[2]
    calls: dict[str, Callable[[], Any]] = {
        "ratio": lambda: onnxprune.prune(cnn, 2),
        "option": lambda: onnxprune.prune(cnn, colour="red"),
        "criterion": lambda: onnxprune.prune(cnn, criterion="l3"),
        "targets": lambda: onnxprune.prune(cnn, targets={"macs": "5ms"}),
        "types": lambda: onnxprune.prune(cnn, only=3),
        "no model": lambda: onnxprune.prune(7),
        "broken model": lambda: onnxprune.inspect(broken),
        "no data": lambda: onnxprune.prune(cnn, criterion="obs", data=[], latency=False),
        "wrong data": lambda: onnxprune.prune(cnn, data={"image": np.zeros((3, 2))}),
        "sensitivity": lambda: onnxprune.sensitivity(cnn, data=None),
        "compare": lambda: onnxprune.compare(cnn, cnn, depth=3),
        "sweep": lambda: onnxprune.sweep(cnn, "family", "colour", [0.5]),
        "nothing": lambda: onnxprune.prune(cnn, 0, **plain),
        "save": lambda: onnxprune.prune(cnn, 0.5, **plain).save(cnn),
    }
    for name, call in calls.items():
        try:
            call()
            print(f"{name}: no error")
        except onnxprune.OnnxpruneError as error:
            print(f"{name}: {type(error).__name__}, exit code {error.exit_code}: {error}")


# -- inputs ----------------------------------------------------------------------------------------------

Make = Callable[[Path, Path], object]  # writes a file of `made/`; takes the checkout, and the file to write
MADE: dict[str, Make] = {}

# Samples of models of the zoo: inputs by name, whole numbers below a limit, or floats where it is 0.
ARRAYS: dict[str, dict[str, tuple[tuple[int, ...], int]]] = {
    "words.npz": {"input_ids": ((40, 12), 120), "attention_mask": ((40, 12), -1)},
    "pixel_values.npz": {"pixel_values": ((48, 3, 32, 32), 0), "labels": ((48,), 2)},
    "views.npz": {"pixel_values": ((8, 3, 64, 64), 0)},
    "steps.npz": {"steps": ((32, 7, 24), 0)},
    "ids.npz": {"ids": ((64, 12), 50)},
    "other_name.npz": {"picture": ((4, 1, 28, 28), 0)},
    "other_shape.npz": {"image": ((4, 3, 28, 28), 0)},
}

FEEDS = '''"""Samples and a metric by name, for --data and --metric."""

import numpy as np


def samples():
    rng = np.random.default_rng(11)
    for size in (8, 16, 24):
        yield {"image": rng.random((size, 1, 28, 28), np.float32)}


def nothing():
    return []


def failing():
    raise ValueError("there are none today")


def top3(reference, outputs, feeds, labels):
    best = np.argsort(-outputs["logits"], axis=1)[:, :3]
    return float((best == labels[:, None]).any(axis=1).mean())
'''


def made(name: str) -> Callable[[Make], Make]:
    """Let `made/NAME` in a table mean what the function writes."""

    def keep(function: Make) -> Make:
        MADE[name] = function
        return function

    return keep


def make_arrays(target: Path) -> None:
    """Write the samples of a name in `ARRAYS`."""
    import numpy as np

    rng = np.random.default_rng(len(target.name))
    found: dict[str, Any] = {}
    for name, (shape, below) in ARRAYS[target.name].items():
        if below < 0:
            found[name] = np.ones(shape, np.int64)
        else:
            found[name] = rng.integers(0, below, shape) if below else rng.standard_normal(shape, np.float32)
    np.savez(target, **found)


def digits(checkout: Path, count: int) -> dict[str, Any]:
    """Return the first digits of the bundled test data, with their labels."""
    import numpy as np

    held = np.load(checkout / "models" / "mnist_test.npz")
    return {name: held[name][:count] for name in ("image", "labels")}


@made("digits.npz")
def _digits(checkout: Path, target: Path) -> None:
    import numpy as np

    np.savez(target, **digits(checkout, 160))


@made("nan.npz")
def _nan(checkout: Path, target: Path) -> None:
    import numpy as np

    image = digits(checkout, 8)["image"].copy()
    image[3, 0, 5, 5] = np.nan
    np.savez(target, image=image)


@made("feeds.py")
def _feeds(_checkout: Path, target: Path) -> None:
    target.write_text(FEEDS, encoding="utf-8")


@made("photos")
def _photos(checkout: Path, target: Path) -> None:
    import numpy as np
    from PIL import Image

    held = digits(checkout, 40)
    for number, (image, label) in enumerate(zip(held["image"], held["labels"], strict=True)):
        path = target / str(label) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image[0] * 255).astype(np.uint8)).save(path)


@made("arrays")
def _arrays(checkout: Path, target: Path) -> None:
    import numpy as np

    held = digits(checkout, 40)
    target.mkdir()
    for number, image in enumerate(held["image"]):
        np.save(target / f"{number:03}.npy", image)
    (target / "labels.txt").write_text("".join(f"{label}\n" for label in held["labels"]), encoding="utf-8")


@made("truncated.onnx")
def _truncated(checkout: Path, target: Path) -> None:
    target.write_bytes((checkout / "models" / "cnn.onnx").read_bytes()[:-999])


@made("text.onnx")
def _text(_checkout: Path, target: Path) -> None:
    target.write_text("no model at all\n", encoding="utf-8")


@made("empty.onnx")
def _empty(_checkout: Path, target: Path) -> None:
    target.write_bytes(b"")


@made("old_opset.onnx")
def _old_opset(checkout: Path, target: Path) -> None:
    import onnx

    proto = onnx.load(checkout / "models" / "cnn.onnx")
    proto.opset_import[0].version = 6
    target.write_bytes(proto.SerializeToString(deterministic=True))


@made("outside.onnx")
def _outside(checkout: Path, target: Path) -> None:
    import onnx

    proto = onnx.load(checkout / "models" / "resnet_folded.onnx")
    onnx.save_model(proto, target, save_as_external_data=True, location=f"{target.name}.data", size_threshold=1024)


@made("half_vit.onnx")
def _half_vit(checkout: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = convert_float_to_float16(onnx.load(checkout / "models" / "vit.onnx"), keep_io_types=True)
    target.write_bytes(proto.SerializeToString(deterministic=True))


@made("functions.onnx")
def _functions(_checkout: Path, target: Path) -> None:
    """Two calls of one local function, a layer."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(5)
    shapes = {"w1": (12, 32), "b1": (32,), "w2": (32, 24), "b2": (24,), "w3": (24, 5)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape, np.float32) / 4, name) for name, shape in shapes.items()
    ]
    opset = helper.make_opsetid("", 18)
    layer = helper.make_function(
        "own", "Layer", ["x", "w", "b"], ["y"],
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        [opset],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Layer", ["x", "w1", "b1"], ["h"], domain="own"),
            helper.make_node("Layer", ["h", "w2", "b2"], ["g"], domain="own"),
            helper.make_node("MatMul", ["g", "w3"], ["y"]),
        ],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    imports = [opset, helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, functions=[layer], opset_imports=imports, ir_version=9)
    onnx.save_model(proto, target)


@made("blocks.onnx")
def _blocks(_checkout: Path, target: Path) -> None:
    """Two layers whose 8-bit weights have a scale for each block of 16 rows."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(6)
    nodes, weights, value = [], [], "x"
    for number, (rows, columns) in enumerate(((32, 64), (64, 48), (48, 6))):
        kernel = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
        scale = (rng.random((rows // 16, columns), np.float32) + 0.5) / 400
        weights += [numpy_helper.from_array(kernel, f"k{number}"), numpy_helper.from_array(scale, f"s{number}")]
        nodes += [
            helper.make_node("DequantizeLinear", [f"k{number}", f"s{number}"], [f"w{number}"], axis=0, block_size=16),
            helper.make_node("MatMul", [value, f"w{number}"], [f"a{number}"]),
            helper.make_node("Relu", [f"a{number}"], [f"r{number}"]),
        ]
        value = f"r{number}"
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 6])],
        weights,
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), target)


@made("quantized_qdq.onnx")
def _quantized_qdq(checkout: Path, target: Path) -> None:
    quantized(checkout, "cnn", target, "QDQ")


@made("quantized_integer.onnx")
def _quantized_integer(checkout: Path, target: Path) -> None:
    quantized(checkout, "resnet_folded", target, "QOperator")


@made("quantized_dynamic.onnx")
def _quantized_dynamic(checkout: Path, target: Path) -> None:
    quantized(checkout, "vit", target, None)


def quantized(checkout: Path, name: str, target: Path, kind: str | None) -> None:
    """Write a bundled model as ONNX Runtime quantizes it; without a kind, activations are quantized at run time."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter([{"image": digits(checkout, 8)["image"]}])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a preprocessing of its own
    with tempfile.TemporaryDirectory() as scratch:  # it writes a file beside the one that it reads
        source = Path(shutil.copy(checkout / "models" / f"{name}.onnx", scratch))
        if kind is None:
            quantize_dynamic(source, target, per_channel=True)
        else:
            quantize_static(source, target, Images(), quant_format=QuantFormat[kind], per_channel=kind == "QDQ")


class Inputs:
    """What runs read, made once."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self._checkout, self._folder = checkout, folder
        self._zoo: tuple[ModuleType, Mapping[str, Any]] | None = None

    def make(self, name: str) -> None:
        """Make an input, such as zoo/hf_vit.dynamo.onnx."""
        kind, _, rest = name.partition("/")
        target = self._folder / name
        target.parent.mkdir(exist_ok=True)
        if kind == "models":
            shutil.copyfile(self._checkout / name, target)
        elif kind == "zoo":
            target.write_bytes(self._refilled(rest.removesuffix(".onnx")))
        elif rest in ARRAYS:
            make_arrays(target)
        else:
            MADE[rest](self._checkout, target)

    def copy(self, name: str, folder: Path) -> dict[str, str]:
        """Copy an input into the folder of a run; return the digests of its files by their paths there."""
        source = self._folder / name
        files = sorted(source.rglob("*")) if source.is_dir() else [source, source.with_name(f"{source.name}.data")]
        found = {}
        for file in files:
            if file.is_file():
                path = file.relative_to(self._folder)
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                os.utime(target, (STAMP, STAMP))
                found[path.as_posix()] = digest(file.read_bytes())
        return found

    def _refilled(self, name: str) -> bytes:
        """Return a graph of the zoo with seeded weights."""
        if self._zoo is None:
            store = zoo_store(self._checkout)
            self._zoo = store, store.load_zoo()
        store, entries = self._zoo
        proto = store.refill(store.read(entries[name].path))
        serialized: bytes = proto.SerializeToString(deterministic=True)
        return serialized


def zoo_store(checkout: Path) -> ModuleType:
    """Return the module of a checkout that reads its zoo, wherever it lies among the tests."""
    import importlib.util

    paths = sorted((checkout / "tests").rglob("zoo_store.py"))
    if len(paths) != 1:
        raise SystemExit(f"{checkout}: one tests/**/zoo_store.py is needed, there are {len(paths)}")
    sys.path.insert(0, str(checkout))
    spec = importlib.util.spec_from_file_location("zoo_store", paths[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo_store"] = module
    spec.loader.exec_module(module)
    return module


# -- what may differ ---------------------------------------------------------------------------------------

TIMED = "(timed)"
TIMED_KEYS = (
    "before_ms", "after_ms", "before_per_s", "after_per_s", "median_ms", "p95_ms", "quantiles_ms", "creation_ms",
    "peak_memory_bytes", "speedup", "speedup_interval", "p95_speedup", "p95_speedup_interval", "within_noise",
    "affinity", "seconds",
)  # fmt: skip
_TIMED_VALUE = re.compile(rf'"({"|".join(TIMED_KEYS)})": (?!null)(\[[^\[\]]*\]|[^\s,{{}}\[\]]+)')
_ALWAYS: tuple[tuple[str, str], ...] = (  # in every text
    (r'("onnxprune"): "[^"]*"', r'\1: "(version)"'),
    (r"(?m)^(onnxprune, version) .*$", r"\1 (version)"),
    (r'("runs"): \d+', rf'\1: "{TIMED}"'),
    (r"the speedup is .*?, asked for", f"the speedup is {TIMED}, asked for"),
    (r'("report_sha256"): "\w+"', r'\1: "(of a file that is compared itself)"'),
    (r'("key"): "\w{64}"', r'\1: "(of what it is made from)"'),
    (r"(?m)^\d{4}-\d\d-\d\d [\d:.]+ \[([A-Z]):onnxruntime:[^\]]*\] ", r"\1 "),  # a line of its log
    (r"(?m)^\S+\.py:\d+: (\w*Warning: .*)\n .*$", r"\1"),  # where it was raised may change
    (r"<td>[\d.]+</td>(<td>[^<]*\.onnx</td></tr>)", rf"<td>{TIMED}</td>\1"),  # seconds, in the page of a sweep
)
_IN_TABLES: tuple[tuple[str, str], ...] = (  # in what compare and sweep print; spaces depend on the width of figures
    (r"[ \t]+", " "),
    (r"(?m) $", ""),
    (r"─+", "─"),
    (r"(?m)^(latency, \w+|session creation|peak memory) .*$", rf"\1 {TIMED}"),
    (r"(?m)^(\w+ \d+(?: -> \d+)?) [\d.]+ ms .*$", rf"\1 {TIMED}"),  # a type of node
    (r"(?m)^nodes add up to .*$", f"nodes add up to {TIMED}"),
    (r"(?m)^((?:\d+|all) \d+) [\d,.]+/s .*$", rf"\1 {TIMED}"),  # threads and batch
    (r"(?m)^may run on .*$", f"may run on {TIMED}"),
    (r"(?m)^speed-up .*? on (.*), \d+ runs each.*$", rf"speed-up {TIMED} on \1"),
    (r"(?m)^(\S+ [\d.]+x [\d.]+x .*) \d+\.\d$", rf"\1 {TIMED}"),  # seconds, in the table of a sweep
)


def neutral(text: str, command: str, folders: Mapping[str, str]) -> str:
    """Return a text without what differs from run to run.

    Args:
        text: that a command has printed or written.
        command: of the step, or "" for a file.
        folders: paths of this run, and what stands for them.
    """
    for path, name in folders.items():
        text = text.replace(path, name)
    text = _TIMED_VALUE.sub(rf'"\1": "{TIMED}"', text)
    for pattern, meant in _ALWAYS:
        text = re.sub(pattern, meant, text)
    if '"nodes_before"' in text:
        return _with_ops_by_name(text)
    if command in ("compare", "sweep") and parsed(text) is None:
        for pattern, meant in _IN_TABLES:
            text = re.sub(pattern, meant, text)
        text = _sorted_ops(text)
    return text


def _with_ops_by_name(text: str) -> str:
    """Return the report of a comparison with its types of nodes in another order than that of their times."""
    found = parsed(text)
    for each in (found or {}).get("comparisons", [found or {}]):
        each.get("ops", []).sort(key=lambda op: op["op"])
    return text if found is None else json.dumps(found, indent=1)


def _sorted_ops(text: str) -> str:
    """Return a printed comparison with its types of nodes in another order than that of their times."""

    def is_op(line: str) -> bool:
        return bool(re.match(rf"\w+ \d.* {re.escape(TIMED)}$", line))

    groups = [(of_ops, list(group)) for of_ops, group in itertools.groupby(text.split("\n"), is_op)]
    return "\n".join(line for of_ops, group in groups for line in (sorted(group) if of_ops else group))


def words_of(drawing: str) -> str:
    """Return the words of a chart whose lines and numbers are times."""
    texts = re.findall(">([^<>]+)<", drawing)
    words = {re.sub(r"[\d.,]+(e[+-]?\d+)?|\(within noise\)|within noise", "", text).strip() for text in texts}
    return "\n".join(sorted(words - {""}))


def parsed(text: str) -> Any:
    """Return what a text holds as JSON, None where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


# -- recording -------------------------------------------------------------------------------------------


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Checkout:
    """The project at some commit."""

    path: Path
    commit: str
    source: str  # digest of the files of the package

    @staticmethod
    def at(path: Path) -> Checkout:
        """Return what lies in a folder."""
        path = path.resolve()
        if not (path / "onnxprune" / "__init__.py").is_file():
            raise SystemExit(f"{path}: no checkout of the project")
        asked = ["git", "--no-optional-locks", "-C", str(path), "rev-parse", "HEAD"]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        files = sorted((path / "onnxprune").rglob("*.py"))
        listed = [f"{file.relative_to(path)} {digest(file.read_bytes())}" for file in files]
        return Checkout(path, told.stdout.strip() or "unknown", digest("\n".join(listed).encode()))


class Recorder:
    """Performs runs with the package of a checkout."""

    def __init__(self, checkout: Checkout, scratch: Path) -> None:
        self._checkout, self._scratch = checkout, scratch
        self.inputs = Inputs(checkout.path, scratch / "inputs")
        (scratch / "inputs").mkdir()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of a run: nothing of the user's, one thread, a cache of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ONNXPRUNE"))}
        return kept | {
            "PYTHONPATH": str(self._checkout.path),
            "PYTHONHASHSEED": "0",
            "PYTHONPYCACHEPREFIX": str(self._scratch / "pycache"),  # the checkout stays as it is
            "ONNXPRUNE_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TMPDIR": str(folder / "tmp"),
            "COLUMNS": "100",
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
        }

    def check(self) -> None:
        """Exit where another package than that of the checkout would be run."""
        code = "import onnxprune; print(onnxprune.__file__)"
        told = subprocess.run(
            [sys.executable, "-c", code], cwd=self._scratch, env=self.environment(self._scratch), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if not Path(told.stdout.strip()).is_relative_to(self._checkout.path):
            raise SystemExit(f"{self._checkout.path}: its package cannot be imported: {told.stdout}{told.stderr}")

    def perform(self, run: Run) -> dict[str, Any]:
        """Perform a run; return what is compared of it, and what is not: how long it took and what was unexpected."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="run-", dir=self._scratch) as name:
            around = Path(name).resolve()
            folder = around / "here"
            for each in (folder, around / "tmp"):
                each.mkdir()
            read: dict[str, str] = {}
            for wanted in run.inputs:
                read |= self.inputs.copy(wanted, folder)
            parts = {f"input {path}": {"sha256": found} for path, found in read.items()}
            folders = {
                str(folder): "(folder)", str(around): "(around)", str(self._checkout.path): "(checkout)",
                str(Path(sys.prefix)): "(python)",
            }  # fmt: skip
            surprises = []
            for number, step in enumerate(run.steps, 1):
                done = self._perform(step, folder)
                if done.returncode != step.exit_code:
                    last = (done.stderr.strip().splitlines() or [""])[-1]
                    surprises.append(f"step {number}: exit code {done.returncode}, not {step.exit_code}: {last}")
                parts[f"step {number}, exit code"] = told(str(done.returncode))
                for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
                    plain = re.sub(re.escape(str(around / "tmp")) + r"/[\w./-]+", "(scratch)", text)
                    parts[f"step {number}, {stream}"] = told(neutral(plain, step.command, folders))
            is_drawn_from_times = any(step.command == "compare" for step in run.steps)
            parts |= self._files(folder, read, folders, is_drawn_from_times)
        return {"parts": parts, "seconds": round(time.perf_counter() - start, 1), "surprises": surprises}

    def _perform(self, step: Step, folder: Path) -> subprocess.CompletedProcess[str]:
        program = [str(Path(__file__).resolve())] if step.command == "call" else ["-m", "onnxprune"]
        return subprocess.run(
            [sys.executable, *program, *step.arguments], cwd=folder, env=self.environment(folder.parent),
            capture_output=True, text=True, timeout=LONGEST_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _files(
        self, folder: Path, read: Mapping[str, str], folders: Mapping[str, str], is_drawn_from_times: bool
    ) -> dict[str, Any]:
        """Return the files that a run has written, and those of its inputs that it has changed."""
        parts: dict[str, Any] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            if digest(content) == read.get(name) or "__pycache__" in name:
                continue
            title = re.sub(r"curves-\w{16}", "curves", f"file {name}")
            while title in parts:
                title += " and another"
            if path.suffix == ".onnx":
                parts[title] = {"sha256": digest(content), "shown": packed(outline(content))}
            elif path.suffix in (".json", ".html", ".svg"):
                text = content.decode()
                is_timed = is_drawn_from_times and path.suffix != ".json"
                parts[title] = told(words_of(text) if is_timed else neutral(text, "", folders))
            else:
                parts[title] = {"sha256": digest(content)}
        return parts


def told(text: str) -> dict[str, str]:
    """Return a text as it is kept: its digest, and the text itself."""
    return {"sha256": digest(text.encode()), "shown": packed(text)}


def packed(text: str) -> str:
    """Return a text in few characters."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def unpacked(text: str) -> str:
    """Return the text again."""
    return gzip.decompress(base64.b64decode(text)).decode()


def outline(content: bytes) -> str:
    """Return what a model holds, as JSON with digests in the place of weights: to tell where two differ."""
    import onnx

    proto = onnx.ModelProto.FromString(content)

    def short(message: Any) -> str:
        return digest(message.SerializeToString(deterministic=True))[:16]

    graph = proto.graph
    found = {
        "ir_version": proto.ir_version,
        "producer": f"{proto.producer_name} {proto.producer_version}",
        "opsets": [f"{each.domain} {each.version}" for each in proto.opset_import],
        "metadata": {each.key: each.value for each in proto.metadata_props},
        "functions": [f"{each.domain} {each.name} {short(each)}" for each in proto.functions],
        "inputs": {each.name: short(each) for each in graph.input},
        "outputs": {each.name: short(each) for each in graph.output},
        "nodes": [
            {
                "name": node.name, "op": f"{node.domain} {node.op_type}".strip(), "inputs": list(node.input),
                "outputs": list(node.output), "attributes": {each.name: short(each) for each in node.attribute},
                "whole": short(node),
            }
            for node in graph.node
        ],
        "initializers": {each.name: f"{list(each.dims)} {short(each)}" for each in graph.initializer},
        "sparse": [short(each) for each in graph.sparse_initializer],
        "value_info": {each.name: short(each) for each in graph.value_info},
    }  # fmt: skip
    return json.dumps(found, indent=1)


def record(checkout: Checkout, out: Path, workers: int, again: bool, glob: str) -> int:
    """Perform the runs that are not recorded yet, and record them; return an exit code."""
    kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else {}
    here = {"commit": checkout.commit, "source": checkout.source}
    known = {run.name: {**here, "key": run.key} for run in all_runs()}
    runs = [run for run in all_runs() if fnmatch.fnmatch(run.name, glob)]
    waiting = [run for run in runs if again or not known[run.name].items() <= kept.get(run.name, {}).items()]
    print(f"{len(waiting)} of {len(runs)} runs to record, of commit {checkout.commit}", flush=True)
    start, surprised = time.perf_counter(), False
    with tempfile.TemporaryDirectory(prefix="same-bytes-") as name:
        recorder = Recorder(checkout, Path(name))
        recorder.check()
        for each in sorted({each for run in waiting for each in run.inputs}):
            recorder.inputs.make(each)
        processors: queue.SimpleQueue[int] = queue.SimpleQueue()
        for _, processor in zip(range(workers), itertools.cycle(available()), strict=False):
            processors.put(processor)
        with ThreadPoolExecutor(workers, initializer=lambda: stay_on(processors.get())) as pool:
            futures = {pool.submit(recorder.perform, run): run for run in waiting}
            for number, future in enumerate(as_completed(futures), 1):
                run, found = futures[future], future.result()
                surprises = found.pop("surprises")
                surprised |= bool(surprises)
                kept[run.name] = {**known[run.name], **found}
                write(out, kept)
                print(f"{number:3} {found['seconds']:6.1f} s  {run.name}", *surprises, sep="\n    ", flush=True)
    write(out, {name: found for name, found in kept.items() if name in known})
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return int(surprised)


def write(out: Path, runs: Mapping[str, Any]) -> None:
    """Write what is recorded, at once."""
    temporary = out.with_name(f"{out.name}.new")
    temporary.write_text(json.dumps({"runs": {name: runs[name] for name in sorted(runs)}}, indent=1), encoding="utf-8")
    temporary.replace(out)


def available() -> list[int]:
    """Return the processors that this process may use; those of a system that does not tell are none."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def stay_on(processor: int) -> None:
    """Let this thread, and the processes that it starts, run on one processor: runs do not slow down one another."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {processor})


# -- comparing -------------------------------------------------------------------------------------------


def compare(before: Path, after: Path) -> int:
    """Print a line for each run that differs, then a summary; return an exit code."""
    old, new = (json.loads(path.read_text(encoding="utf-8"))["runs"] for path in (before, after))
    names = list(dict.fromkeys((*old, *new)))
    lines = [line for name in names if (line := difference(name, old.get(name), new.get(name))) is not None]
    print(*lines, sep="\n", end="\n" * bool(lines))
    files = len({(name, part) for runs in (old, new) for name in runs for part in written(runs[name])})
    same = "all the same" if not lines else f"{len(lines)} runs differ"
    print(f"{len(names)} runs, {files} files: {same}")
    return int(bool(lines) or not names)


def written(run: Mapping[str, Any]) -> list[str]:
    """Return the parts of a run that are files which it has written."""
    return [part for part in run["parts"] if part.startswith("file ")]


def difference(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str | None:
    """Return in a line where two records of a run differ first, None where they do not."""
    if old is None or new is None:
        return f"{name}: recorded {'after' if old is None else 'before'} alone"
    if old["key"] != new["key"]:
        return f"{name}: recorded with other commands"
    parts = list(dict.fromkeys((*old["parts"], *new["parts"])))
    differing = [part for part in parts if _digest_of(old, part) != _digest_of(new, part)]
    if not differing:
        return None
    first, *others = sorted(differing, key=lambda part: not part.startswith("input "))  # these explain the others
    more = f"; also {', '.join(others[:3])}" + f" and {len(others) - 3} more" * (len(others) > 3) if others else ""
    return f"{name}: {first}: {place(old['parts'].get(first), new['parts'].get(first))}{more}"


def _digest_of(run: Mapping[str, Any], part: str) -> str | None:
    found: str | None = run["parts"].get(part, {}).get("sha256")
    return found


def place(old: Mapping[str, str] | None, new: Mapping[str, str] | None) -> str:
    """Return where two records of a part differ first."""
    if old is None or new is None:
        return f"is there {'after' if old is None else 'before'} alone"
    if "shown" not in old or "shown" not in new:
        return "the bytes differ"
    one, other = unpacked(old["shown"]), unpacked(new["shown"])
    trees = parsed(one), parsed(other)
    if None not in trees and (found := first_in_trees(*trees)) is not None:
        return found
    return first_in_lines(one, other) or "the bytes differ, though not in what is told of them"


def first_in_trees(one: Any, other: Any, path: str = "$") -> str | None:
    """Return the path in JSON where two values differ first, and both; None where they are equal.

    >>> first_in_trees({"a": [1, 2]}, {"a": [1, 3]})
    '$.a[1]: 2 | 3'
    """
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{path}.{key}", one.get(key), other.get(key)) for key in dict.fromkeys((*one, *other))]
    elif isinstance(one, list) and isinstance(other, list):
        pairs = [(f"{path}[{number}]", *each) for number, each in enumerate(itertools.zip_longest(one, other))]
    else:
        return None if one == other and type(one) is type(other) else f"{path}: {_cut(one)} | {_cut(other)}"
    return next((found for place, a, b in pairs if (found := first_in_trees(a, b, place)) is not None), None)


def first_in_lines(one: str, other: str) -> str | None:
    """Return the line where two texts differ first, from shortly before the place; None where they are equal."""
    for number, (old, new) in enumerate(itertools.zip_longest(one.split("\n"), other.split("\n")), 1):
        if old != new:
            pairs = zip(old or "", new or "", strict=False)
            start = max(0, sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) - 30)
            return f"line {number}: {_cut(old and old[start:])} | {_cut(new and new[start:])}"
    return None


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def main() -> int:
    """Run a command of this script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    asked = commands.add_parser("record", help="perform the runs with the package of a checkout")
    asked.add_argument("--checkout", type=Path, required=True)
    asked.add_argument("--out", type=Path, required=True, help="a JSON file")
    asked.add_argument("--workers", type=int, default=2, help="runs at the same time")
    asked.add_argument("--again", action="store_true", help="record again what is recorded")
    asked.add_argument("--only", default="*", metavar="GLOB", help="runs of these names alone")
    asked = commands.add_parser("compare", help="tell where two records differ")
    asked.add_argument("before", type=Path)
    asked.add_argument("after", type=Path)
    asked = commands.add_parser("call", help="what record starts for the runs in Python")
    asked.add_argument("name", choices=CALLS)
    given = parser.parse_args()
    if given.command == "call":
        sys.path[0] = str(Path.cwd())  # as `python -m` has it
        CALLS[given.name]()
        return 0
    if given.command == "compare":
        return compare(given.before, given.after)
    sys.dont_write_bytecode = True  # of the checkout
    return record(Checkout.at(given.checkout), given.out, given.workers, given.again, given.only)


if __name__ == "__main__":
    sys.exit(main())
