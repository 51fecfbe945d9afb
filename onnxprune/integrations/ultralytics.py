"""A hook for Ultralytics' export (https://docs.ultralytics.com/modes/export): what `yolo export` wrote is pruned.

So it is used::

    from ultralytics import YOLO
    from onnxprune.integrations.ultralytics import pruned
    model = YOLO("yolo11n.pt")
    model.add_callback("on_export_end", pruned(ratio=0.3, data="images", preprocess="size=640"))
    model.export(format="onnx")

The file keeps its name, its metadata (classes, stride, task) and its inputs and outputs, so that `YOLO("yolo11n.onnx")`
predicts and validates with it as before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxprune.commands.prune import prune_file
from onnxprune.errors import OptionError
from onnxprune.planning.options import make_options
from onnxprune.progress import logged


def pruned(data: Any = None, report: str | Path | None = None, **options: Any) -> Callable[[Any], None]:
    """Return a callback for ``on_export_end``, which prunes the exported ONNX file in its place.

    Args:
        data: samples, as for `onnxprune.prune`.
        report: where the JSON report is written; beside the model by default.
        **options: those of `onnxprune.prune`.

    Raises:
        InputError: for an option that is none.
    """
    checked = make_options(**options)

    def on_export_end(exporter: Any) -> None:
        """Prune what was exported.

        Raises:
            InputError, NothingToPrune, VerificationError: as `onnxprune.prune`; the exported file stays then.
        """
        if exporter.args.format != "onnx":
            raise OptionError(f"only ONNX files are pruned: export with format='onnx', not {exporter.args.format!r}")
        path = Path(exporter.file).with_suffix(".onnx")
        prune_file(
            path, path, checked, data, report_path=Path(report) if report else path.with_suffix(".onnxprune.json"),
            force=True, progress=logged,
        )  # fmt: skip

    return on_export_end
