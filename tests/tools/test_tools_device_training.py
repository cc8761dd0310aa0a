"""Training on a GPU machine: tests that need none. Those that need the JAX backend run in their own process."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfgradgen as tg
from tests.support.tooling import tool

WIDTHS = (12, 10, 8, 6, 4)
needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="TRAINING WITH JAX (tools/device) WAS NOT TESTED: JAX is missing; pip install '.[test]'",
)


def small_generator() -> Any:
    """Return a generator with other widths, random weights, and statistics other than 0 and 1."""
    keras.utils.set_random_seed(3)
    generator = importlib.import_module("tools.train.train_generator").empty_generator(2, WIDTHS)
    generator.calibrate([np.random.default_rng(0).standard_normal((32, generator.latent_dim), "float32")])
    return generator


def test_packed_photographs_and_weights_are_read_as_written(tmp_path: Path) -> None:
    packed = tool("packed")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [3, 64, 64, 3], "uint8")
    for k, (name, image) in enumerate(zip("aab", images, strict=True)):
        (tmp_path / "train" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "train" / name / f"{k}.png")
    contents, labels = packed.encoded(tmp_path, "train", ["a", "b"])
    assert len(contents) == 3, "are .png files among the ENDINGS?"
    np.testing.assert_array_equal(packed.decoded(*packed.joined(contents)), images)
    np.testing.assert_array_equal(labels, [0, 0, 1])
    large, small = (keras.Variable(rng.standard_normal(shape).astype("float32")) for shape in ((200, 101), (3,)))
    before = [np.asarray(large), np.asarray(small)]
    packed.save_weights(tmp_path / "w.npz", [large, small])
    large.assign(0 * large)
    small.assign(0 * small)
    packed.load_weights(tmp_path / "w.npz", [large, small])
    np.testing.assert_allclose(large, before[0], atol=2e-3)
    np.testing.assert_array_equal(small, before[1])
    with pytest.raises(SystemExit, match="pack the inputs again"):
        packed.load_weights(tmp_path / "w.npz", [large])


def test_a_folded_generator_of_other_widths_is_the_same_map() -> None:
    generator = small_generator()
    z = np.random.default_rng(1).standard_normal((3, generator.latent_dim), "float32")
    folded = tool("generator_network").FoldedGenerator(generator)
    np.testing.assert_allclose(folded(z), generator(z), atol=1e-4)


def test_a_generator_from_a_gpu_is_exported_with_its_recipe(tmp_path: Path) -> None:
    generator, exporter = small_generator(), tool("export_models")
    tool("packed").save_weights(tmp_path / "best.npz", generator.variables)
    settings = {"features": ["squeeze", "lite"], "high_pass": 4.0, "guidance": 0.4}
    record = dict(recipe="both_guided", settings=settings, batch_size=256, images=512, widths=WIDTHS)
    (tmp_path / "best.json").write_text(json.dumps(record), encoding="utf-8")
    exporter.export_generator(tmp_path, ["goldfish", "jellyfish"], tmp_path / "generator", num_batches=1)
    loaded = tg.load_generator(str(tmp_path / "generator"))
    assert loaded(tf.zeros([2, loaded.latent_dim])).shape == (2, 64, 64, 3)
    card = " ".join((tmp_path / "generator" / "MODEL.md").read_text(encoding="utf-8").split())
    for text in ("`both_guided`", "SqueezeNet and EfficientNet-Lite1", "weight 0.4", "512 images", "12, 10, 8, 6, 4 channels"):
        assert text in card


def test_guidance_lowers_the_loss_of_the_guide() -> None:
    """The generator makes one colour.

    The guide wants it bright; its weight is so large that the discriminator does not matter.
    """
    keras.utils.set_random_seed(0)
    colour = tf.Variable(tf.zeros([3]))

    def generate(z: Any, training: bool = False) -> tf.Tensor:
        return tf.tanh(colour) * tf.ones([len(z), 64, 64, 1])

    generate.dtype_policy, generate.latent_dim = keras.DTypePolicy("float32"), 3  # type: ignore[attr-defined]
    features = lambda image: [tf.nn.avg_pool2d(image, k, k, "SAME") for k in (2, 4, 8, 16)]  # noqa: E731
    features.channels, features.image_size = (3, 3, 3, 3), 64  # type: ignore[attr-defined]
    guide = lambda image, label: tf.reduce_mean((image - 1.0) ** 2, [1, 2, 3])  # noqa: E731
    gan = tool("projected_gan").ProjectedGan(generate, features, 2, 4, 10, guide=guide, guidance=100.0)
    data = (np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), "uint8"), np.array([0, 1, 0, 1], "int32"))
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = gan(data, training=True)["g_loss"]
        colour.assign_sub(0.01 * tape.gradient(loss, colour))
    assert float(tf.reduce_min(colour)) > 0.1


JAX_CHECKS = """
import jax, jax.numpy as jnp, keras, numpy as np, sys
from tools.device.scanned import Scanned
from tools.train.efficientnet_lite import depthwise
from tools.train.features import SqueezeNetFeatures

class Line(keras.Model):
    def __init__(self):
        super().__init__()
        self.slope = self.add_weight(shape=(), initializer="zeros")
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True
    def call(self, data, training=False):
        self.seen.assign(self.seen + 1)
        return {"loss": keras.ops.mean((self.slope * data[0] - 3 * data[0]) ** 2)}

def batch_fn(key, data):
    return (data[jax.random.randint(key, (8,), 0, len(data))],)

adam = lambda: keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)
data = jnp.linspace(0.5, 1.5, 32)
model = Line()
loop = Scanned(model, adam(), batch_fn, data, steps=20)
first, *_, last = [float(loop.run()["loss"]) for _ in range(3)]
assert last < 0.1 * first, (first, last)
loop.assign(averaged=False)
assert float(model.seen) == 60
plain, optimizer, slope = Line(), adam(), model.slope
optimizer.build([plain.slope])
for call in range(3):
    for key in jax.random.split(jax.random.fold_in(jax.random.key(0), 20 * call), 20):
        (x,) = batch_fn(key, data)
        gradient = jax.grad(lambda s: jnp.mean((s * x - 3 * x) ** 2))(plain.slope.value)
        optimizer.apply_gradients([(gradient, plain.slope)])
np.testing.assert_allclose(float(plain.slope), float(slope), rtol=1e-4)
with np.load(sys.argv[1]) as file:
    x, kernel, pooled = (jnp.asarray(file[name]) for name in ("x", "kernel", "pool"))
    for stride in (1, 2):
        np.testing.assert_allclose(depthwise(x, kernel, stride), file[f"depthwise{stride}"], atol=1e-5)
    np.testing.assert_array_equal(SqueezeNetFeatures._pool(jnp.abs(x)), pooled)
print("ALL SAME")
"""


@needs_jax
def test_the_forms_for_jax_equal_those_of_tensorflow(root: Path, tmp_path: Path) -> None:
    """`Scanned` learns, and makes the steps of a plain loop; depthwise convolutions and pooling equal those of TensorFlow."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype("float32") for shape in ((2, 12, 12, 3), (5, 5, 3, 1)))
    depthwise, pool = tool("efficientnet_lite").depthwise, tool("features").SqueezeNetFeatures._pool
    values = {f"depthwise{stride}": np.asarray(depthwise(x, kernel, stride)) for stride in (1, 2)}
    np.savez(tmp_path / "values.npz", x=x, kernel=kernel, pool=np.asarray(pool(tf.abs(x))), **values)
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    if paths := os.environ.get("PYTHONPATH"):
        env["PYTHONPATH"] += os.pathsep + paths
    command = [sys.executable, "-c", JAX_CHECKS, str(tmp_path / "values.npz")]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ALL SAME" in done.stdout
