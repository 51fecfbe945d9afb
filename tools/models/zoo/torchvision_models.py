"""Models of torchvision: classifiers with few parameters, segmentation, detection, video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from tools.models.zoo.specimen import Recipe, Specimen, specimen

BOTH = ("torchscript", "dynamo")
OLD, NEW = BOTH[:1], BOTH[1:]
SIDES, FIXED = "batch 3 height width", "batch 3 _ _"


def classifier(name: str, size: int, options: dict[str, Any], dims: str) -> Specimen:
    """A classifier with ten classes."""
    made = torchvision.models.get_model(name, weights=None, **{"num_classes": 10, **options})
    return specimen(made, f"{name} {options}", image=(torch.randn(2, 3, size, size), dims))


def resnet(block: str, layers: tuple[int, ...], **options: Any) -> nn.Module:
    """A ResNet with few blocks."""
    module = torchvision.models.resnet
    made: nn.Module = module.ResNet(getattr(module, block), list(layers), num_classes=10, **options)
    return made


def small_resnet(size: int, dims: str, block: str, **options: Any) -> Specimen:
    """Return a ResNet of one block a stage."""
    made = resnet(block, (1, 1, 1, 1), **options)
    return specimen(made, f"{block} {options}", image=(torch.randn(2, 3, size, size), dims))


def named(module: nn.Module, config: str, size: int, dims: str) -> Specimen:
    """Return any module that takes an image."""
    return specimen(module, config, image=(torch.randn(2, 3, size, size), dims))


def swin(version: int) -> Specimen:
    """A Swin of two stages."""
    module = torchvision.models.swin_transformer
    extra = {"block": module.SwinTransformerBlockV2, "downsample_layer": module.PatchMergingV2} if version == 2 else {}
    made = module.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=10, **extra)
    return named(made, f"embed_dim=32, depths=[2, 2], version {version}", 64, FIXED)


def vit() -> Specimen:
    """A vision transformer of two layers."""
    made = torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10)
    nn.init.normal_(made.heads.head.weight)
    return named(made, "32, 8, 2 layers, 4 heads, 64, 128", 32, FIXED)


def maxvit() -> Specimen:
    """A MaxViT of two stages."""
    made = torchvision.models.MaxVit((64, 64), 32, 4, [32, 64], [1, 1], 16, 0.0, num_classes=10)
    return named(made, "stem 32, [32, 64], partition 4", 64, FIXED)


def convnext() -> Specimen:
    """A ConvNeXt of one block a stage."""
    setting = torchvision.models.convnext.CNBlockConfig
    blocks = [setting(24, 48, 1), setting(48, 96, 1), setting(96, 192, 1), setting(192, None, 1)]
    return named(torchvision.models.ConvNeXt(blocks, num_classes=10), "24, 48, 96, 192", 64, SIDES)


def densenet() -> Specimen:
    """A DenseNet of three dense blocks."""
    made = torchvision.models.DenseNet(16, (2, 3, 2), 32, num_classes=10)
    return named(made, "growth 16, (2, 3, 2)", 64, SIDES)


class Maps(nn.Module):
    """The maps of a segmentation network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Image to scores of the classes."""
        scores: Tensor = self.model(image)["out"]
        return scores


def fcn() -> Specimen:
    """FCN on a small ResNet."""
    models = torchvision.models
    backbone = models._utils.IntermediateLayerGetter(resnet("BasicBlock", (1, 1, 1, 1)), {"layer4": "out"})
    made = Maps(models.segmentation.FCN(backbone, models.segmentation.fcn.FCNHead(512, 5)))
    return specimen(made, "ResNet of one basic block a stage", "FCN", image=(torch.randn(2, 3, 64, 64), SIDES))


def deeplab(dims: str) -> Specimen:
    """DeepLabV3 on a small dilated ResNet."""
    models = torchvision.models
    dilated = resnet("Bottleneck", (1, 1, 1, 1), replace_stride_with_dilation=[False, True, True], width_per_group=16)
    backbone = models._utils.IntermediateLayerGetter(dilated, {"layer3": "out"})
    made = Maps(models.segmentation.DeepLabV3(backbone, models.segmentation.deeplabv3.DeepLabHead(1024, 5, (2, 4, 6))))
    return specimen(made, "dilated ResNet", "DeepLabV3", image=(torch.randn(2, 3, 64, 64), dims))


def lraspp() -> Specimen:
    """LR-ASPP on MobileNetV3 large."""
    made = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    return specimen(Maps(made), "num_classes=5", "LRASPP", image=(torch.randn(2, 3, 64, 64), SIDES))


class Heads(nn.Module):
    """What the convolutions of a detector give: features, scores and boxes before decoding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image to the raw outputs of the head."""
        features = self.backbone(image)
        return tuple(self.head(list(features.values())).values())


class Whole(nn.Module):
    """A detector of torchvision with decoding and suppression, on one image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image to boxes, labels and scores."""
        return tuple(self.model([image[0]])[0][name] for name in ("boxes", "labels", "scores"))


def pyramid() -> nn.Module:
    """A feature pyramid on a small ResNet."""
    utils = torchvision.models.detection.backbone_utils
    made: nn.Module = utils._resnet_fpn_extractor(
        resnet("BasicBlock", (1, 1, 1, 1), norm_layer=torchvision.ops.FrozenBatchNorm2d), 5, returned_layers=[2, 3, 4], extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
    )  # fmt: skip
    return made


def detector(kind: str, whole: bool) -> Specimen:
    """A detector on a small feature pyramid, whole or up to its raw outputs."""
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
    one = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    size = {"min_size": 64, "max_size": 96}
    made: Any
    if kind == "ssd":
        models = torchvision.models.detection
        made = models.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    elif kind == "retinanet":
        made = RetinaNet(pyramid(), 5, anchor_generator=anchors, **size)
    elif kind == "fcos":
        made = FCOS(pyramid(), 5, anchor_generator=one, **size)
    else:
        made = FasterRCNN(pyramid(), 5, rpn_anchor_generator=anchors, **size)
    wrapped = Whole(made.eval()) if whole else Heads(made.eval())
    side = 320 if kind == "ssd" else 64
    image = torch.randn(1 if whole else 2, 3, side, side)
    dims = "1 3 _ _" if whole else FIXED if kind == "ssd" else SIDES
    return specimen(wrapped, "ResNet with feature pyramid", type(made).__name__, image=(image, dims))


TABLE: dict[str, tuple[Callable[..., Specimen], tuple[Any, ...], dict[str, Any], tuple[str, ...]]] = {
    "squeezenet": (classifier, ("squeezenet1_1", 64, {}, SIDES), {}, BOTH),
    "mobilenet_v2": (classifier, ("mobilenet_v2", 64, {"width_mult": 0.5}, SIDES), {}, BOTH),
    "mobilenet_v3_large": (classifier, ("mobilenet_v3_large", 64, {}, SIDES), {}, OLD),
    "mobilenet_v3_small": (classifier, ("mobilenet_v3_small", 64, {}, SIDES), {}, BOTH),
    "mnasnet": (classifier, ("mnasnet0_5", 64, {}, SIDES), {}, OLD),
    "efficientnet_b0": (classifier, ("efficientnet_b0", 64, {}, SIDES), {}, BOTH),
    "shufflenet_v2": (classifier, ("shufflenet_v2_x0_5", 64, {}, SIDES), {}, BOTH),
    "shufflenet_v2_static": (classifier, ("shufflenet_v2_x1_0", 64, {}, "2 3 _ _"), {}, BOTH),
    "googlenet": (classifier, ("googlenet", 64, {"aux_logits": False, "init_weights": False}, SIDES), {}, BOTH),
    "regnet_y_400mf": (classifier, ("regnet_y_400mf", 64, {}, SIDES), {}, OLD),
    "regnet_x_400mf": (classifier, ("regnet_x_400mf", 64, {}, SIDES), {}, NEW),
    "resnet_basic": (small_resnet, (64, SIDES, "BasicBlock"), {}, BOTH),
    "resnet_bottleneck": (small_resnet, (64, SIDES, "Bottleneck"), {"width_per_group": 32}, BOTH),
    "resnext": (small_resnet, (64, SIDES, "Bottleneck"), {"groups": 8, "width_per_group": 4}, BOTH),
    "densenet": (densenet, (), {}, BOTH),
    "convnext": (convnext, (), {}, BOTH),
    "vit": (vit, (), {}, BOTH),
    "swin": (swin, (1,), {}, BOTH),
    "swin_v2": (swin, (2,), {}, BOTH),
    "maxvit": (maxvit, (), {}, BOTH),
    "fcn": (fcn, (), {}, BOTH),
    "deeplabv3": (deeplab, (SIDES,), {}, OLD),
    "deeplabv3_fixed": (deeplab, (FIXED,), {}, NEW),
    "lraspp": (lraspp, (), {}, BOTH),
    "ssd_heads": (detector, ("ssd", False), {}, OLD),
    "retinanet_heads": (detector, ("retinanet", False), {}, BOTH),
    "fcos_heads": (detector, ("fcos", False), {}, BOTH),
    "retinanet": (detector, ("retinanet", True), {}, OLD),
    "fcos": (detector, ("fcos", True), {}, OLD),
    "faster_rcnn": (detector, ("faster_rcnn", True), {}, OLD),
}  # fmt: skip

RECIPES = {
    f"tv_{name}": Recipe(lambda f=f, a=a, k=k: f(*a, **k), exporters) for name, (f, a, k, exporters) in TABLE.items()
}
