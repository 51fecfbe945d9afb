"""Runs that use the package from Python."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

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

    inspection = onnxprune.inspect(onnx.load("zoo/hf_gpt2.torchscript.onnxslim.onnx"))
    show(inspection.to_dict())
    show({reason: [group.name for group in groups] for reason, groups in inspection.locks.items()})


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
    comparison = onnxprune.compare(onnx.load("models/vit.onnx"), result.model, data="made/digits.npz", **settings)
    show(comparison.to_dict())


@called
def sensitivity_on_arrays() -> None:
    """Losses of groups, in two processes of an executor."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import numpy as np

    import onnxprune

    images = np.load("models/mnist_calibration.npz")["image"][:48]
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        measured = onnxprune.sensitivity("models/vit.onnx", data=images, levels=3, executor=executor)
    show(measured.to_dict())
    print([group.name for group in measured.protect], [group.name for group in measured.free])


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
