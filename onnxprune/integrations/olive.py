"""A pass of Olive (https://microsoft.github.io/Olive): pruning as a step of its workflows, cached as its own are.

So it is used::

    from onnxprune.integrations.olive import package_config
    olive.run("workflow.json", package_config=package_config("packages.json"))

The workflow names the pass ``OnnxPrune``; its options are those of `onnxprune.prune` as JSON holds them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olive.common.config_utils import ParamCategory
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

from onnxprune.commands.prune import prune_file
from onnxprune.planning.options import make_options
from onnxprune.progress import logged

if TYPE_CHECKING:
    from olive.hardware.accelerator import AcceleratorSpec

NAME = "OnnxPrune"
_REPORT = "onnxprune.json"  # beside the model


class OnnxPrune(Pass):  # type: ignore[misc]
    """Remove whole channels, heads and neurons, and prove it."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        """Return the options of the pass, with defaults."""
        return {
            "ratio": PassConfigParam(type_=float, default_value=None, description="Share of the units to remove."),
            "targets": PassConfigParam(
                type_=dict, default_value=None, description='What the result may cost, such as {"latency": 0.6}.'
            ),
            "data": PassConfigParam(
                type_=str, default_value=None, category=ParamCategory.PATH, description="Samples: FILE.npz or a folder."
            ),
            "eval_data": PassConfigParam(
                type_=str, default_value=None, category=ParamCategory.PATH, description="Other samples to compare on."
            ),
            "options": PassConfigParam(
                type_=dict, default_value=None, description="Further options of onnxprune.prune, by their names."
            ),
        }

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> ONNXModelHandler:
        """Prune a model to a file, and return it; the report lies beside it.

        Raises:
            InputError, NothingToPrune, VerificationError: as `onnxprune.prune`.
        """
        values = config if isinstance(config, dict) else config.model_dump()
        given = {name: values.get(name) for name in ("ratio", "targets", "eval_data") if values.get(name) is not None}
        target = Path(resolve_onnx_path(output_model_path, "model.onnx"))
        target.parent.mkdir(parents=True, exist_ok=True)
        prune_file(
            Path(model.model_path),
            target,
            make_options(**given, **(values.get("options") or {})),
            values.get("data"),
            report_path=target.with_name(_REPORT),
            force=True,
            progress=logged,
        )
        return ONNXModelHandler(model_path=str(target.parent), onnx_file_name=target.name)


def package_config(path: str | os.PathLike[str]) -> str:
    """Write Olive's list of passes with this one in it; return its path, for ``package_config`` of `olive.run`."""
    known = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    known["passes"][NAME] = {
        "module_path": f"{__name__}.{NAME}",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
    }
    Path(path).write_text(json.dumps(known, indent=1), encoding="utf-8")
    return str(path)
