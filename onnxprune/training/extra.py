"""The extra that this room needs, asked for in one sentence."""

from __future__ import annotations

import importlib.util

from onnxprune.errors import OptionError


def check_torch(purpose: str) -> None:
    """Make sure that PyTorch can be imported.

    Args:
        purpose: what needs it, such as "--criterion taylor".

    Raises:
        OptionError: when it is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise OptionError(f"{purpose} needs PyTorch: pip install 'onnxprune[torch]'")
