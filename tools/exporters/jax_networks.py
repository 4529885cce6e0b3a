"""Write a small network of flax through jax2onnx: ``python jax_networks.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
from flax import nnx

from spectrum import falling

SIZE = 64


class Block(nnx.Module):  # type: ignore[misc]
    """A residual block; written as a function of the model's own where it is said so."""

    def __init__(self, channels: int, rngs: Any) -> None:
        self.first = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(channels, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(channels, channels, (3, 3), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Return maps of the same shape, (N, H, W, channels)."""
        return x + self.second(nnx.relu(self.norm(self.first(x))))


BlockAsFunction = jax2onnx.onnx_function(type("BlockAsFunction", (Block,), {}))


class Network(nnx.Module):  # type: ignore[misc]
    """What a tutorial builds: convolutions, BatchNormalization, residual sums, a classifier."""

    def __init__(self, block: Any, rngs: Any) -> None:
        self.first = nnx.Conv(3, 32, (3, 3), strides=2, rngs=rngs)
        self.block = block(32, rngs)
        self.second = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.third = nnx.Conv(64, 96, (1, 1), rngs=rngs)
        self.scores = nnx.Linear(96, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """Return the scores, shape (N, 10)."""
        x = nnx.silu(self.first(x))
        x = nnx.relu(self.second(self.block(x)))
        return self.scores(jnp.mean(nnx.gelu(self.third(x)), axis=(1, 2)))


def with_falling_spectra(network: Any) -> Any:
    """Give a network weights as trained ones are."""
    generator = np.random.default_rng(0)

    def drawn(weight: Any) -> Any:
        return jnp.asarray(falling(generator, weight.shape, filters_last=True)) if weight.ndim > 1 else weight

    nnx.update(network, jax.tree.map(drawn, nnx.state(network, nnx.Param)))
    return network


def main(folder: Path) -> None:
    """Write the networks into a folder; what the exporter refuses is printed."""
    for name, block in {"plain": Block, "function": BlockAsFunction}.items():
        network = with_falling_spectra(Network(block, nnx.Rngs(0)))
        try:
            jax2onnx.to_onnx(
                network, [("B", SIZE, SIZE, 3)], return_mode="file", output_path=str(folder / f"{name}.onnx")
            )
        except Exception as error:  # exporters raise many types
            print(f"{name}.onnx: not exported: {type(error).__name__}: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
