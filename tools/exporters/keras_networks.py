"""Write small networks through Keras 3: ``KERAS_BACKEND=... python keras_networks.py FOLDER [tf2onnx]``.

By `model.export`, or by tf2onnx's own function. No GELU: see findings/keras-gelu-is-no-onnx.sh.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from spectrum import falling, image_batch

SIZE = 64


def network() -> Any:
    """Return what a tutorial builds: convolutions, a depthwise one, BatchNormalization, a residual sum."""
    x = images = layers.Input((SIZE, SIZE, 3))
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, 2, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
    residual = x
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(64, 1, activation="swish")(x)
    x = layers.Add()([x, residual])
    x = layers.Conv2DTranspose(32, 3, 2, padding="same")(x)
    x = layers.Dense(48, activation="tanh")(x)  # over the channels of a map
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3, activation="relu")(x))
    return keras.Model(images, layers.Dense(10)(layers.Dropout(0.2)(x)))


def mobilenet() -> Any:
    """Return a network of keras.applications, of 10 classes."""
    return keras.applications.MobileNetV3Small((SIZE, SIZE, 3), weights=None, classes=10, classifier_activation=None)


def with_falling_spectra(model: Any) -> Any:
    """Give a model weights as trained ones are, and statistics of BatchNormalization that fit them."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        weights = [np.asarray(weight) for weight in layer.get_weights()]
        filters_last = not isinstance(layer, layers.Conv2DTranspose)
        layer.set_weights(
            [
                falling(generator, weight.shape, filters_last=filters_last) if weight.ndim > 1 else weight
                for weight in weights
            ]
        )
    batch = image_batch(np.random.default_rng(1), (8, SIZE, SIZE, 3), channels_last=True)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(10):
        model(batch, training=True)
    return model


def main(folder: Path, way: str) -> None:
    """Write the networks into a folder; what an exporter refuses is printed."""
    for name, build in {"plain": network, "mobilenetv3": mobilenet}.items():
        model = with_falling_spectra(build())
        file = folder / f"{name}.onnx"
        try:
            if way == "tf2onnx":
                _by_tf2onnx(model, file)
            else:
                model.export(file, format="onnx", verbose=False)
        except Exception as error:  # exporters raise many types
            print(f"{file.name}: not exported: {type(error).__name__}: {str(error).splitlines()[0]}")


def _by_tf2onnx(model: Any, file: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415
    import tf2onnx  # noqa: PLC0415

    signature = (tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, name="images"),)
    function = tf.function(lambda images: model(images, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, signature, opset=18, output_path=str(file))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
