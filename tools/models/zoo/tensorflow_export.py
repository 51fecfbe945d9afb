"""Keras models to ONNX by tf2onnx; run by tools/models/zoo/tensorflow_models.py in an environment that has TensorFlow.

    TF_USE_LEGACY_KERAS=1 python tensorflow_export.py NAME FILE

Requires tensorflow 2.19, tf_keras, tf2onnx 1.17 and onnx 1.17.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf2onnx
import tf_keras as keras

L = keras.layers
SMALL = {"weights": None, "input_shape": (64, 64, 3), "classes": 10}


def residual(x: Any, width: int, stride: int) -> Any:
    """A residual block with BatchNorm."""
    y = L.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    y = L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(y))
    if stride > 1 or x.shape[-1] != width:
        x = L.BatchNormalization()(L.Conv2D(width, 1, stride, use_bias=False)(x))
    return L.ReLU()(L.Add()([x, y]))


def resnet() -> Any:
    """Three residual blocks."""
    image = L.Input((32, 32, 3))
    x = L.Conv2D(24, 3, padding="same")(image)
    for width, stride in ((24, 1), (32, 2), (48, 2)):
        x = residual(x, width, stride)
    return keras.Model(image, L.Dense(10, activation="softmax")(L.GlobalAveragePooling2D()(x)))


def cnn() -> Any:
    """Convolutions, pooling, Flatten, Dense: the flattened channels run fastest."""
    image = L.Input((28, 28, 1))
    x = L.MaxPooling2D()(L.Conv2D(24, 3, activation="relu")(image))
    x = L.MaxPooling2D()(L.Conv2D(32, 3, activation="relu")(x))
    x = L.Dense(48, activation="relu")(L.Dropout(0.5)(L.Flatten()(x)))
    return keras.Model(image, L.Dense(10)(x))


def separable() -> Any:
    """Separable convolutions with squeeze and excitation, of any size."""
    image = L.Input((None, None, 3))
    x = L.Conv2D(24, 3, 2, padding="same", activation="swish")(image)
    x = L.BatchNormalization()(L.SeparableConv2D(48, 3, padding="same", activation="relu")(x))
    gate = L.Dense(48, activation="sigmoid")(L.Dense(12, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(x)))
    x = L.DepthwiseConv2D(5, padding="same", activation="relu6")(L.Multiply()([x, gate]))
    return keras.Model(image, L.Dense(10)(L.GlobalMaxPooling2D()(x)))


def unet() -> Any:
    """A U-Net with transposed convolutions and one resize."""
    image = L.Input((32, 32, 3))
    a = L.Conv2D(16, 3, padding="same", activation="relu")(image)
    b = L.Conv2D(32, 3, padding="same", activation="relu")(L.MaxPooling2D()(a))
    c = L.Conv2D(48, 3, padding="same", activation="relu")(L.MaxPooling2D()(b))
    x = L.Concatenate()([L.Conv2DTranspose(32, 2, 2, padding="same")(c), b])
    x = L.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = L.Concatenate()([L.UpSampling2D(interpolation="bilinear")(x), a])
    return keras.Model(image, L.Conv2D(4, 1)(L.Conv2D(16, 3, padding="same", activation="relu")(x)))


def dense_blocks() -> Any:
    """Concatenations of growing width."""
    x = image = L.Input((32, 32, 3))
    for _ in range(4):
        y = L.Conv2D(12, 3, padding="same")(L.ReLU()(L.BatchNormalization()(x)))
        x = L.Concatenate()([x, y])
    x = L.AveragePooling2D()(L.Conv2D(24, 1)(x))
    return keras.Model(image, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def super_resolution() -> Any:
    """tf.nn.depth_to_space, in the order of TensorFlow."""
    image = L.Input((16, 16, 3))
    x = L.Conv2D(32, 5, padding="same", activation="relu")(image)
    x = L.Lambda(lambda t: tf.nn.depth_to_space(t, 2))(L.Conv2D(96, 3, padding="same")(x))
    x = L.Conv2D(12, 3, padding="same")(x)
    return keras.Model(image, L.Lambda(lambda t: tf.nn.depth_to_space(t, 2))(x))


def transformer() -> Any:
    """MultiHeadAttention of Keras: Einsum with heads as an axis of the weights."""
    ids = L.Input((12,), dtype="int32")
    x = L.Embedding(50, 48)(ids)
    for _ in range(2):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.MultiHeadAttention(4, 12)(y, y)])
        y = L.Dense(96, activation="swish")(L.LayerNormalization(epsilon=1e-6)(x))
        x = L.Add()([x, L.Dense(48)(y)])
    return keras.Model(ids, L.Dense(5)(L.GlobalAveragePooling1D()(x)))


def recurrent(kind: str) -> Callable[[], Any]:
    """A recurrent layer in both directions, and one above it."""

    def make() -> Any:
        frames = L.Input((12, 8))
        layer = getattr(L, kind)
        x = L.Bidirectional(layer(24, return_sequences=True))(L.Dense(16, activation="relu")(frames))
        return keras.Model(frames, L.Dense(5)(L.Dense(32, activation="relu")(layer(24)(x))))

    return make


def text_cnn() -> Any:
    """Convolutions over words."""
    ids = L.Input((20,), dtype="int32")
    x = L.Embedding(50, 24)(ids)
    parts = [L.GlobalMaxPooling1D()(L.Conv1D(16, k, padding="same", activation="relu")(x)) for k in (1, 3, 5)]
    return keras.Model(ids, L.Dense(4)(L.Dense(24, activation="relu")(L.Concatenate()(parts))))


def mixer() -> Any:
    """An MLP-Mixer: Permute around Dense."""
    image = L.Input((32, 32, 3))
    x = L.Reshape((16, 48))(L.Conv2D(48, 8, 8)(image))
    y = L.Permute((2, 1))(L.LayerNormalization()(x))
    x = L.Add()([x, L.Permute((2, 1))(L.Dense(16)(L.Dense(32, activation="swish")(y)))])
    x = L.Add()([x, L.Dense(48)(L.Dense(96, activation="swish")(L.LayerNormalization()(x)))])
    return keras.Model(image, L.Dense(10)(L.GlobalAveragePooling1D()(x)))


MODELS: dict[str, Callable[[], Any]] = {
    "mobilenet_v1": lambda: keras.applications.MobileNet(alpha=0.25, **SMALL),
    "mobilenet_v2": lambda: keras.applications.MobileNetV2(alpha=0.35, **SMALL),
    "mobilenet_v3": lambda: keras.applications.MobileNetV3Small(alpha=0.75, minimalistic=False, **SMALL),
    "efficientnet_b0": lambda: keras.applications.EfficientNetB0(**SMALL),
    "resnet": resnet,
    "cnn": cnn,
    "separable": separable,
    "unet": unet,
    "dense_blocks": dense_blocks,
    "super_resolution": super_resolution,
    "transformer": transformer,
    "lstm": recurrent("LSTM"),
    "gru": recurrent("GRU"),
    "text_cnn": text_cnn,
    "mixer": mixer,
}


def main() -> None:
    """Write one model."""
    name, path = sys.argv[1:]
    model = MODELS[name]()
    port = model.inputs[0]
    signature = [tf.TensorSpec(port.shape, port.dtype, name="input")]
    tf2onnx.convert.from_keras(model, input_signature=signature, opset=17, output_path=path)


if __name__ == "__main__":
    main()
