#!/usr/bin/env bash
# jax2onnx 0.17.1 with flax 0.12.8: a max pool with padding in numbers, or without strides, becomes another pool.
#
# Expected: `nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))`, as behind the first convolution of
# a ResNet, is a MaxPool with these pads; without `strides` it steps by 1, as flax says. What has no counterpart is refused.
#
# Happens: padding is "VALID" for all that is not "SAME", and steps are the size of the window where none are given. The
# model gets smaller maps inside and is sound for itself, so that nothing stumbles over it where a mean over the map follows:
#
#   padding of 1        flax [1,4,4,4]  MaxPool [1,3,3,4]  checker: passes, scores behind a mean off by 13%
#   no strides          flax [1,7,7,4]  MaxPool [1,4,4,4]  checker: passes, scores behind a mean off by 6%
#   5x5 "SAME"          flax [1,8,8,4]  MaxPool [1,2,2,4]  checker: passes, scores behind a mean off by 5%
#   padded by jnp.pad   flax [1,4,4,4]  MaxPool [1,4,4,4]  checker: passes, scores behind a mean off by 0%
#
# avg_pool loses padding in numbers too. Write strides always, and such padding as jnp.pad with minus infinity. linen's max_pool
# without strides is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    jax2onnx==0.17.1 flax==0.12.8 jax==0.10.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime as ort
from flax import nnx
from jax2onnx import to_onnx

ONES = ((1, 1), (1, 1))
POOLS = {
    "padding of 1": lambda x: nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=ONES),
    "no strides": lambda x: nnx.max_pool(x, window_shape=(2, 2)),
    '5x5 "SAME"': lambda x: nnx.max_pool(x, window_shape=(5, 5), padding="SAME"),
    "padded by jnp.pad": lambda x: nnx.max_pool(
        jnp.pad(x, ((0, 0), *ONES, (0, 0)), constant_values=-jnp.inf), window_shape=(3, 3), strides=(2, 2)
    ),
}
x = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype(np.float32)


def both(function):
    model = to_onnx(function, [jax.ShapeDtypeStruct(x.shape, jnp.float32)])
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(function(x)), session.run(None, {session.get_inputs()[0].name: x})[0]


for name, pool in POOLS.items():
    maps = [str(list(each.shape)).replace(" ", "") for each in both(pool)]
    wanted, found = both(lambda x, pool=pool: pool(x).mean((1, 2)))
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    print(f"{name:19} flax {maps[0]}  MaxPool {maps[1]}  checker: passes, scores behind a mean off by {error:.0%}")
    assert (maps[0] == maps[1]) == (error < 1e-5) == (name == "padded by jnp.pad")
PYTHON
