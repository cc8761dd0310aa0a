"""The shipped generator and classifier in PyTorch, for tools/bench, with weights in the order of the SavedModels.

Optimized for speed on a CPU: inference only, channels_last, batch normalization of the classifier folded into its convolutions,
and the kernel of the transposed convolution computed once.
"""

import numpy as np
import torch
from torch.nn import functional as F

from tools.train.generator_network import LATENT_CONTENT_DIM, SHIPPED_SHARPNESS, Generator


class Reader:
    """Reads arrays in the order in which the Keras networks of tools/ create their variables."""

    def __init__(self, arrays):
        self.rest = iter(arrays)

    def take(self):
        return torch.from_numpy(np.array(next(self.rest)))

    def norm(self):
        """Return scale and shift of a batch normalization, with the epsilon of Keras."""
        gamma, beta, mean, variance = (self.take() for _ in range(4))
        scale = gamma / torch.sqrt(variance + 1e-3)
        return scale, beta - mean * scale

    def conv(self):
        """Return a kernel [out, in, height, width] from that of Keras, [height, width, in, out]."""
        return channels_last(self.take().permute(3, 2, 0, 1))

    def folded(self):
        """Return (kernel, bias) of a convolution without bias and the batch normalization after it."""
        kernel = self.conv()
        scale, shift = self.norm()
        return channels_last(kernel * scale[:, None, None, None]), shift

    def up(self):
        """Return the kernel [in, out, 4, 4] of `generator_network.UpConv` from its [3, 3, out, in]."""
        kernel = self.take()
        padded = [F.pad(kernel, (0, 0, 0, 0, q, 1 - q, p, 1 - p)) for p in (0, 1) for q in (0, 1)]
        return channels_last(sum(padded).permute(3, 2, 0, 1))

    def conditional(self):
        """Return a `generator_network.ConditionalBatchNorm` as a function (x, h) -> x."""
        gain, bias, to_scale, to_shift, mean, variance = (self.take() for _ in range(6))
        inv = gain / torch.sqrt(variance + 1e-4)
        offset = bias - mean * inv

        def run(x, h):
            modulation = 1 + h @ to_scale
            scale, shift = inv * modulation, offset * modulation + h @ to_shift
            return x * scale[:, :, None, None] + shift[:, :, None, None]

        return run


def channels_last(x):
    """Return `x` in channels_last memory format."""
    return x.contiguous(memory_format=torch.channels_last)


def make_generator(arrays):
    """Return the function z [B, num_classes + 64] -> image [B, 3, 64, 64] in channels_last."""
    read = Reader(arrays)
    embedding, stem, stem_norm = read.take(), read.take(), read.conditional()
    ups = [read.up() for _ in Generator.STAGES]
    norms = [read.conditional() for _ in Generator.STAGES]
    residual, residual_norm = read.conv(), read.conditional()
    rgb16, rgb32, rgb64, rgb_bias = read.conv(), read.conv(), read.conv(), read.take()
    act = lambda x: F.leaky_relu(x, 0.2)  # noqa: E731
    double = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)  # noqa: E731

    def generate(z):
        chosen, content = z[:, :-LATENT_CONTENT_DIM], z[:, -LATENT_CONTENT_DIM:]
        h = torch.cat([content, torch.softmax(SHIPPED_SHARPNESS * chosen, 1) @ embedding], 1)
        x = (h @ stem).reshape(len(z), 4, 4, -1).permute(0, 3, 1, 2)  # already channels_last
        x = act(stem_norm(x, h))
        rgb = None
        for up, norm in zip(ups, norms, strict=True):
            x = act(norm(F.conv_transpose2d(x, up, stride=2, padding=1), h))
            if x.shape[2] == 16:
                x = x + act(residual_norm(F.conv2d(x, residual, padding=1), h))
                rgb = F.conv2d(x, rgb16)
            elif x.shape[2] == 32:
                rgb = double(rgb) + F.conv2d(x, rgb32)
        return torch.tanh(F.conv2d(x, rgb64, rgb_bias, padding=1) + double(rgb))

    return generate


def make_classifier(arrays, num_classes):
    """Return the function image [B, 3, 64, 64] -> calibrated logits [B, num_classes], with "other" last."""
    read = Reader(arrays)
    temperature, other_bias = read.take(), read.take()
    stem = read.folded()
    # One kernel per convolution, then that of the shortcut, as `ResidualClassifier.make_stage` creates them.
    stages = [([read.folded() for _ in range(count)], read.folded() if i else None) for i, count in enumerate((2, 2, 2, 1))]
    read.take()  # the seed state of dropout
    head, head_bias = read.take(), read.take()
    halve = lambda x, conv: F.conv2d(F.pad(x, (0, 1, 0, 1)), *conv, stride=2)  # noqa: E731  (TensorFlow's "same", stride 2)
    same = lambda x, conv: F.conv2d(x, *conv, padding="same")  # noqa: E731

    def classify(image):
        x = F.silu(F.conv2d(F.pad(image, (1, 2, 1, 2)), *stem, stride=2))
        for convs, match in stages:
            y = x
            for j, conv in enumerate(convs):
                y = halve(y, conv) if match and not j else same(F.silu(y) if j else y, conv)
            x = F.silu((same(F.avg_pool2d(x, 2), match) if match else x) + y)
        logits = x.mean((2, 3)) @ head + head_bias
        other = torch.logsumexp(logits[:, num_classes - 1 :], 1, keepdim=True) + other_bias
        return torch.cat([logits[:, : num_classes - 1], other], 1) / temperature

    return classify


def make_log_prob(generator_arrays, classifier_arrays, num_classes, label):
    """Return the function z [B, latent_dim] -> log p(class `label` | image) + log Normal(z; 0, I), [B]."""
    generate = make_generator(generator_arrays)
    classify = make_classifier(classifier_arrays, num_classes)

    def log_prob(z):
        prior = -0.5 * (z.square().sum(1) + z.shape[1] * float(np.log(2 * np.pi)))
        return prior + torch.log_softmax(classify(generate(z)), 1)[:, label]

    return log_prob
