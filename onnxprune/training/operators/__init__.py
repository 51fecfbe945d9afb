"""What each operator computes, in PyTorch: the second table. Importing the package fills the registry."""

from onnxprune.training.operators import (  # noqa: F401 - imported for what they register
    attention,
    attention_runtime,
    classic,
    control,
    convolution,
    fused,
    indexing,
    layout,
    normalization,
    pooling,
    quantized,
    recurrent,
    reduction,
    resampling,
    sequences,
    signal,
    table,
    vision,
)
