"""A model as a `torch.nn.Module`: how it is built from nodes, checked against ONNX Runtime, and written back."""
