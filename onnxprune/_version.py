"""The version, read by the build and by ``onnxprune --version`` without importing anything."""

__version__ = "0.1.0"
