"""Operators of com.microsoft that ONNX Runtime's optimiser writes."""
