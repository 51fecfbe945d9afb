"""Libraries of custom operators: those that the user names, and onnxruntime-extensions where it is installed.

The names go through the environment, so that worker processes load the same. A library is code that runs here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError
from onnxprune.runtime.time_limit import holds

VARIABLE = "ONNXPRUNE_CUSTOM_OPS"
_EXTENSIONS = "onnxruntime_extensions"
_DOMAINS = (b"ai.onnx.contrib", b"com.microsoft.extensions")


def libraries(source: Path | bytes) -> list[str]:
    """Return the paths of the libraries that the sessions of a model load.

    Args:
        source: the model: onnxruntime-extensions is loaded for one that names its domains alone.

    Raises:
        OptionError: when onnxruntime-extensions is installed, and does not work here.
    """
    stated = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    if importlib.util.find_spec(_EXTENSIONS) and any(holds(source, domain) for domain in _DOMAINS):
        stated.append(_of_extensions())
    return stated


def _of_extensions() -> str:
    """Return the path of the library that onnxruntime-extensions brings along."""
    try:
        return str(importlib.import_module(_EXTENSIONS).get_library_path())
    except Exception as error:  # whatever a package raises that is damaged, or made for another version
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(
            f"the model has operators of the package onnxruntime-extensions, which is installed and cannot be loaded: "
            f"{reason}; install it anew, or remove it and name a library with --custom-ops"
        ) from None


def register(options: Any, source: Path | bytes) -> None:
    """Let a session that is made with these onnxruntime.SessionOptions know the operators of all libraries.

    Raises:
        OptionError: when a library is not there, or cannot be loaded.
    """
    for path in libraries(source):
        if not Path(path).is_file():
            raise OptionError(f"--custom-ops: there is no library {path}")
        try:
            options.register_custom_ops_library(path)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            reason = str(error).strip().splitlines()[0]
            raise OptionError(
                f"--custom-ops: {path} is no library of custom operators that loads here: {reason}"
            ) from None
