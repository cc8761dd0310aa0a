"""Stand-ins of the hub's generators: the interface of the real modules, smooth random images, few weights.

Images are sums of low cosines whose coefficients come from z, so that they vary smoothly in space and with z.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.support.standins_writing import Graph, Signature, Weights, cosines, placeholder, write_hub_module

GRID = 7  # cosines along each side of an image
BATCHES = ("8", "16", "32", "64", "128", "None")  # compare_gan exports a meta graph for each


def amplitudes(channels: int, std: float) -> np.ndarray:
    """Return scales [GRID, GRID, channels] of coefficients, falling with frequency; a pixel has standard deviation `std`."""
    frequency = np.hypot(*np.mgrid[:GRID, :GRID])
    falling = 1 / (1 + frequency)
    return np.repeat((std * falling / np.sqrt((falling**2).sum()))[..., None], channels, -1).astype(np.float32)


def paint(coefficients: tf.Tensor, size: int) -> tf.Tensor:
    """coefficients [B, GRID, GRID, C] -> their image [B, size, size, C]."""
    waves = cosines(size, GRID)
    return tf.einsum("hk,bklc,wl->bhwc", waves, coefficients, waves)


def fields(weights: Weights, z: tf.Tensor, size: int, channels: int, std: float) -> tf.Tensor:
    """z [B, n] of unit variance -> smooth random fields [B, size, size, channels] of standard deviation `std`."""
    mixed = weights.dense("fields", z, GRID * GRID * channels)
    return paint(tf.reshape(mixed, [-1, GRID, GRID, channels]) * amplitudes(channels, std), size)


def convolve(weights: Weights, name: str, x: tf.Tensor, channels: int) -> tf.Tensor:
    """Apply ReLU and a 3x3 convolution that smooths (binomial in space) and mixes the channels at random."""
    inputs = int(x.shape[-1])
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])[..., None, None]
    mix = weights.draw(name, [inputs, channels]) / inputs**0.5
    centred = tf.nn.relu(x) - 0.4  # the mean of ReLU of a standard normal, so that no colour dominates
    return tf.nn.conv2d(centred, weights.put(f"{name}/w", kernel * mix), 1, "SAME")


def double(x: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, 2H, 2W, C] by nearest neighbours."""
    size = int(x.shape[1])
    return tf.compat.v1.image.resize_nearest_neighbor(x, [2 * size, 2 * size])


class Truncation:
    """The position of a truncation (scalar, 0 to 1) in BigGAN's batch statistics, which have 51 rows, one for each 0.02."""

    def __init__(self, truncation: tf.Tensor) -> None:
        position = truncation * 50.0
        self.low = tf.minimum(tf.cast(tf.floor(position), tf.int32), 49)
        self.part = position - tf.cast(self.low, tf.float32)

    def of(self, rows: tf.Variable) -> tf.Tensor:
        """rows [51, C] -> [C], interpolated."""
        return tf.gather(rows, self.low) * (1 - self.part) + tf.gather(rows, self.low + 1) * self.part


def truncated_norm(weights: Weights, x: tf.Tensor, condition: tf.Tensor, truncation: Truncation) -> tf.Tensor:
    """BigGAN's batch norm: statistics by truncation; scale and offset from the condition [B, n]."""
    channels, rows = int(x.shape[-1]), np.linspace(0, 1, 51)[:, None]
    means = weights.put("norm/means", rows * 0.4 * weights.draw("norm/means", [1, channels]))
    variances = weights.put("norm/variances", 0.4 + 0.6 * rows + np.zeros([1, channels]))
    scale = 1 + weights.dense("norm/scale", condition, channels, 0.3)
    offset = weights.dense("norm/offset", condition, channels, 0.5)
    normal = (x - truncation.of(means)) * tf.math.rsqrt(truncation.of(variances) + 1e-4)
    return normal * scale[:, None, None] + offset[:, None, None]


def biggan(folder: Path, size: int, z_dim: int) -> Path:
    """z [?, z_dim], y [?, 1000] one-hot, truncation scalar -> image [?, size, size, 3] in [-1, 1]; ref variables."""

    def graph(weights: Weights) -> dict[str, Signature]:
        z, y = placeholder("z", None, z_dim), placeholder("y", None, 1000)
        truncation = placeholder("truncation")
        embedded = tf.matmul(y, weights.normal("embedding", [1000, 16], 1.0))
        condition = tf.concat([z, embedded], -1)
        x = fields(weights, condition, size // 4, 8, 1.0)
        x = truncated_norm(weights, x, condition, Truncation(truncation))
        x = 1.3 * convolve(weights, "up1", double(x), 8)
        x = tf.tanh(1.3 * convolve(weights, "up2", double(x), 3))
        return {"default": Signature({"z": z, "y": y, "truncation": truncation}, {"default": x})}

    return write_hub_module(folder, [((), graph)], Weights(size + z_dim, resource=False))


def bigbigan(folder: Path) -> Path:
    """BigBiGAN: `generate`, `encode`, `default` (the encoder) and `discriminate`; the encoder inverts the generator."""
    z_dim, count = 120, GRID * GRID * 3

    def coefficients_of(x: tf.Tensor) -> tf.Tensor:
        """x [?, 128, 128, 3] in [-1, 1] -> the coefficients [?, count] that a generated image was painted from."""
        waves = cosines(128, GRID) / 128
        flat = tf.einsum("hk,bhwc,wl->bklc", waves, tf.atanh(0.999 * x), waves) / amplitudes(3, 0.7)
        return tf.reshape(flat, [-1, count])

    def generate(rotation: tf.Variable) -> Signature:
        z = placeholder("z", None, z_dim)
        coefficients = tf.reshape(tf.matmul(z, rotation), [-1, GRID, GRID, 3])
        image = tf.tanh(paint(coefficients * amplitudes(3, 0.7), 128))
        return Signature({"z": z}, {"default": image, "upsampled": tf.compat.v1.image.resize_bilinear(image, [256, 256])})

    def encode(weights: Weights, rotation: tf.Variable) -> Signature:
        x = placeholder("x", None, 256, 256, 3)
        found = coefficients_of(tf.nn.avg_pool2d(x, 2, 2, "SAME"))
        z_mean = tf.matmul(found, rotation, transpose_b=True) * (z_dim / count)
        z_stdev = 0.1 * tf.nn.softplus(weights.dense("stdev", found, z_dim))
        z_sample = z_mean + z_stdev * tf.random.normal(tf.shape(z_mean))
        features = weights.dense("features", found, 2048)
        outputs = {"default": z_sample, "z_sample": z_sample, "z_mean": z_mean, "z_stdev": z_stdev}
        return Signature({"x": x}, outputs | {"avepool_feat": tf.nn.relu(features), "bn_crelu_feat": tf.nn.crelu(features)})

    def discriminate(weights: Weights, rotation: tf.Variable) -> Signature:
        x, z = placeholder("disc_x", None, 128, 128, 3), placeholder("disc_z", None, z_dim)
        found = coefficients_of(x)
        score_x = weights.dense("score_x", tf.nn.relu(weights.dense("hidden_x", found, 32)), 1, 2.0)[:, 0]
        score_z = weights.dense("score_z", tf.nn.relu(weights.dense("hidden_z", z, 32)), 1, 2.0)[:, 0]
        distance = tf.reduce_mean(tf.square(found - tf.matmul(z, rotation)), -1)
        outputs = {"score_x": score_x, "score_z": score_z, "score_xz": score_x + score_z + 1.0 - distance}
        return Signature({"x": x, "z": z}, outputs)

    def graph(weights: Weights) -> dict[str, Signature]:
        # orthonormal rows, scaled so that the coefficients have unit variance
        rows = np.linalg.qr(weights.draw("rotation", [count, z_dim]))[0].T * (count / z_dim) ** 0.5
        rotation = weights.put("rotation", rows)
        encoded = encode(weights, rotation)
        return {
            "generate": generate(rotation),
            "encode": encoded,
            "default": Signature(encoded.inputs, {"default": encoded.outputs["default"]}),
            "discriminate": discriminate(weights, rotation),
        }

    return write_hub_module(folder, [((), graph), (("train",), graph)], Weights(120, resource=True))


def progan(folder: Path, control: str = "") -> Path:
    """One tensor [?, 512] -> image [?, 128, 128, 3] in [0, 1]; control: "", "while" or "cond", control flow v1 of z."""

    def graph(weights: Weights) -> dict[str, Signature]:
        latent = placeholder("latent", None, 512)
        z = latent * tf.math.rsqrt(tf.reduce_mean(tf.square(latent), -1, keepdims=True) + 1e-8)
        if control == "while":
            turn = weights.normal("turn", [512, 512], 512**-0.5)
            step = lambda k, state: (k + 1, tf.tanh(tf.matmul(state, turn)) * 1.6)  # noqa: E731
            z = tf.compat.v1.while_loop(lambda k, state: k < 3, step, (0, z))[1]
        elif control == "cond":
            mean = tf.reduce_mean(latent)
            z = tf.compat.v1.cond(mean > 0, lambda: z * 1.1, lambda: tf.sin(z) * 1.3)
        x = fields(weights, z, 64, 8, 1.0)
        image = tf.sigmoid(3.0 * convolve(weights, "rgb", double(x), 3))
        return {"default": Signature({"default": latent}, {"default": image})}

    tf.compat.v1.disable_control_flow_v2()
    try:
        return write_hub_module(folder, [((), graph)], Weights(512, resource=True))
    finally:
        tf.compat.v1.enable_control_flow_v2()


def critic(weights: Weights, images: tf.Tensor, embedded: tf.Tensor | None = None) -> tf.Tensor:
    """images [B, S, S, 3] in [0, 1], with or without a label's embedding [B, n] -> one logit each [B, 1]."""
    small = tf.nn.avg_pool2d(2 * images - 1, 16, 16, "VALID")
    hidden = weights.dense("critic/hidden", tf.reshape(small, [-1, int(np.prod(small.shape[1:]))]), 32, 3.0)
    if embedded is not None:
        hidden += weights.dense("critic/label", embedded, 32)
    return weights.dense("critic/logit", tf.nn.relu(hidden), 1, 2.0)


def compare_gan(folder: Path) -> Path:
    """The older modules: `generator` z [64, 128] -> [64, 128, 128, 3] in [0, 1] and `discriminator`, batch 64 only."""

    def graph(weights: Weights) -> dict[str, Signature]:
        z = placeholder("z", 64, 128)
        uniform = 3**0.5 * z  # z ~ Uniform(-1, 1) has variance 1/3
        small = convolve(weights, "rgb", double(fields(weights, uniform, 16, 8, 1.0)), 3)  # 64 images are made for each z
        image = tf.sigmoid(3.0 * double(double(small)))
        images = placeholder("images", 64, 128, 128, 3)
        return {
            "generator": Signature({"z": z}, {"default": image}),
            "discriminator": Signature({"images": images}, {"default": critic(weights, images)}),
        }

    return write_hub_module(folder, [((), graph)], Weights(64, resource=False))


def s3gan(folder: Path, size: int = 128, z_dim: int = 120, seed: int = 3) -> Path:
    """S3GAN and SSGAN: the untagged graph and {gen, bs64} take batches of 64, {gen, bsNone} any; {disc, ...} likewise."""

    def gen(batch: int | None) -> Graph:
        def graph(weights: Weights) -> dict[str, Signature]:
            z, labels = given(batch, [z_dim]), given(batch, [], tf.int32)
            embedded = weights.dense("embedding", tf.one_hot(labels, 1000), 16, 1000**0.5)
            x = fields(weights, tf.concat([z, embedded], -1), size // 2, 8, 1.0)
            image = tf.sigmoid(3.0 * convolve(weights, "rgb", double(x), 3))
            return {"default": Signature({"z": z, "labels": labels}, {"generated": image})}

        return graph

    def disc(batch: int | None) -> Graph:
        def graph(weights: Weights) -> dict[str, Signature]:
            images, labels = given(batch, [size, size, 3]), given(batch, [], tf.int32)
            embedded = weights.dense("critic/embedding", tf.one_hot(labels, 1000), 16, 1000**0.5)
            prediction = tf.sigmoid(critic(weights, images, embedded))
            return {"default": Signature({"images": images, "labels": labels}, {"prediction": prediction})}

        return graph

    def given(batch: int | None, shape: list[int], dtype: tf.DType = tf.float32) -> tf.Tensor:
        """Return an input as compare_gan exports it in graphs of a fixed batch: a tensor of zeros, which is fed over."""
        return placeholder("given", None, *shape, dtype=dtype) if batch is None else tf.zeros([batch, *shape], dtype)

    graphs: list[tuple[tuple[str, ...], Graph]] = [((), gen(64))]
    for kind, make in (("gen", gen), ("disc", disc)):
        graphs += [((kind, f"bs{batch}"), make(None if batch == "None" else int(batch))) for batch in BATCHES]
    return write_hub_module(folder, graphs, Weights(seed, resource=True))
