"""Shapes, types and numbers of values: by onnx, by rules of our own where it has none, under several settings."""
