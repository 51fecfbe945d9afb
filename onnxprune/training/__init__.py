"""A model as a network of PyTorch: gradients, and training. The only room that imports torch.

PyTorch is an extra: ``pip install 'onnxprune[torch]'``. `training.extra` says so where it is missing; the other modules
import it at their top.
"""
