"""Makes a generator that can be trained again from an exported one, whose batch normalizations are folded."""

import numpy as np

from tools.train.generator_network import EPSILON, LATENT_CONTENT_DIM, Generator
from tools.train.initializers import Normal

LEAST = 1e-3  # of a scale that others are divided by
NUM_BATCHES, BATCH = 16, 128  # for the moments that the normalizations of a batch divide by


def unfolded(weights, sharpness):
    """Return a `Generator` whose images in training, on average over batches, are those of a `FoldedGenerator`.

    Args:
      weights: {name: array} of the folded generator.
      sharpness: That of the choice of the class.

    Folding loses the embedding of the classes and the moments. The embedding is drawn anew, and the weights behind it are
    solved for; the moments are those of prior draws, and gains and biases make up for them.
    """
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    if not {"mixing", "offset", "up0"} <= set(weights):
        raise SystemExit("start: expected a generator that train_generator exported, got another model; give its folder.")
    num_classes = len(weights["mixing"]) - LATENT_CONTENT_DIM
    widths = (weights["up0"].shape[3], *(weights[f"up{k}"].shape[2] for k in range(4)))
    generator = Generator(num_classes, sharpness, widths=widths)
    generator(np.zeros((2, generator.latent_dim), "float32"))
    norms = generator.all_norms
    embedding = np.asarray(Normal(1.0)(generator.embedding.kernel.shape))
    generator.embedding.kernel.assign(embedding)
    of_class, of_content = weights["mixing"][:num_classes], weights["mixing"][num_classes:]
    of_h = np.concatenate([of_content, np.linalg.pinv(embedding) @ of_class])
    ends = np.cumsum([generator.stem.units, *(2 * norm.gain.shape[0] for norm in norms)])
    stem, *kernels = np.split(of_h, ends[:-1], 1)
    _, *offsets = np.split(weights["offset"], ends[:-1])
    generator.stem.kernel.assign(stem)
    for norm, kernel, offset in zip(norms, kernels, offsets, strict=True):
        (scale, shift), (inv, bias) = np.split(kernel, 2, 1), np.split(offset, 2)
        inv = np.where(inv < 0, -1.0, 1.0) * np.maximum(np.abs(inv), LEAST)
        to_scale = scale / inv
        for variable, value in zip(norm.variables[:4], (inv, bias, to_scale, shift - to_scale * bias), strict=True):
            variable.assign(value)
    for k, up in enumerate(generator.ups):
        up.kernel.assign(narrowed(weights[f"up{k}"]))
    for name in ("residual", "rgb16", "rgb32", "rgb64"):
        getattr(generator, name).kernel.assign(weights[name])
    generator.rgb64.bias.assign(weights["rgb_bias"])
    restore_moments(generator)
    return generator


def narrowed(kernel):
    """Return the [3, 3, ...] kernel of which `UpConv` makes the transposed `kernel` [4, 4, ...], by least squares."""
    sums = np.zeros((4, 4, 3, 3))
    for row, column in np.ndindex(3, 3):
        sums[row : row + 2, column : column + 2, row, column] = 1
    solved = np.linalg.lstsq(sums.reshape(16, 9), kernel.reshape(16, -1), rcond=None)[0]
    return solved.reshape(3, 3, *kernel.shape[2:])


def restore_moments(generator):
    """Let each normalization of `generator` undo the division by the moments of a batch."""
    rng = np.random.default_rng(1)
    batches = [rng.standard_normal((BATCH, generator.latent_dim), "float32") for _ in range(NUM_BATCHES)]
    for norm in generator.all_norms:  # what a norm sees depends on those before it
        generator.calibrate(batches)
        inv, bias, mean, variance = (np.asarray(norm.variables[k], np.float64) for k in (0, 1, 4, 5))
        norm.gain.assign(inv * np.sqrt(variance + EPSILON))
        norm.bias.assign(bias + mean * inv)
    generator.calibrate(batches)
