"""An ONNX file as data: read, checked, seen as nodes and constants, edited, written.

The only package that imports onnx and onnx_graphsurgeon.
"""
