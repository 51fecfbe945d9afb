"""The architectures of the zoo, one module for each source."""

from __future__ import annotations

import torch

# torchvision's compiled ops may be missing; it asks for these schemas when it is imported, here or by timm.
for _schema in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _schema):
        torch.library.define(f"torchvision::{_schema}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

torch.backends.mha.set_fastpath_enabled(False)  # one fused op, which cannot be exported
