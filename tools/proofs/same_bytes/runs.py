"""The runs that are recorded, as tables of command lines."""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import dataclass

from contents import digest
from inputs import ARRAYS, FEEDS, MADE
from python_runs import CALLS

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
        listed = []
        for line in self.lines:
            command, _, code = line.partition(" -> ")
            listed.append(Step(tuple(shlex.split(command)), int(code or 0)))
        return listed

    @property
    def inputs(self) -> list[str]:
        """The files and folders that it reads, by their paths in its folder."""
        text = self._source()
        paths = re.findall(r"\b(?:models|zoo|made)/[\w./-]+", text)
        return sorted({*paths, *(f"made/{name}.py" for name in re.findall(r"\bmade\.(\w+):", text))})

    @property
    def key(self) -> str:
        """What is another one when the run is: by its commands, and by how this file makes its inputs."""
        names = [name.removeprefix("made/") for name in self.inputs]
        makers = [inspect.getsource(MADE[name]) for name in names if name in MADE]
        return digest("\n".join([self._source(), FEEDS, *makers, *(str(ARRAYS.get(name)) for name in names)]).encode())

    def _source(self) -> str:
        """Return the steps, and the functions of this file that they call."""
        called = [step.arguments[1] for step in self.steps if step.command == "call"]
        return "\n".join([*self.lines, *(inspect.getsource(CALLS[name]) for name in called)])


def all_runs() -> list[Run]:
    """Return the runs of all tables."""
    named = [(name, lines) for table in TABLES for name, lines in table.items()]
    return [Run(name, (lines,) if isinstance(lines, str) else tuple(lines)) for name, lines in named]
