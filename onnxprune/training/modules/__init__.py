"""A cut made again in the PyTorch module that a file was exported from."""
