"""The shipped generator and classifier in PyTorch, for tools/bench, with weights taken from the Keras networks.

Optimized for speed on a CPU: inference only and channels_last. As in the SavedModels, all normalization is folded in.
"""

import numpy as np
import torch
from keras import ops
from torch.nn import functional as F

from tools.train.consensus_network import TAPS
from tools.train.efficientnet_lite import bicubic_matrix

IMAGE_SIZE = 64  # of the generator
SLOPE = 0.2  # of the generator's leaky ReLU


def tensor(variable):
    """Return a Keras variable as float32, on PyTorch's default device."""
    return torch.asarray(np.array(ops.convert_to_numpy(variable), "float32"))


def channels_last(x):
    """Return `x` in channels_last memory format."""
    return x.contiguous(memory_format=torch.channels_last)


def kernel_of(variable):
    """Return a kernel [out, in, height, width] from that of Keras, [height, width, in, out].

    It holds for a transposed convolution, too: [in, out, height, width] from [height, width, out, in].
    """
    return channels_last(tensor(variable).permute(3, 2, 0, 1))


def make_generator(network):
    """Return the function z [B, num_classes + 64] -> image [B, 3, 64, 64] in channels_last, of a `FoldedGenerator`."""
    mixing, offset, sizes = tensor(network.mixing), tensor(network.offset), list(network.sizes)
    ups = [kernel_of(up) for up in network.ups]
    kernels = {name: kernel_of(kernel) for name, kernel in network.convolutions.items()}
    rgb_bias, num_classes, sharpness = tensor(network.rgb_bias), network.num_classes, network.sharpness
    double = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)  # noqa: E731

    def generate(z):
        weights = torch.softmax(sharpness * z[:, :num_classes], 1)
        mixed = torch.cat([weights, z[:, num_classes:]], 1) @ mixing + offset
        stem, *modulations = torch.split(mixed, sizes, 1)
        each = iter([part[:, :, None, None] for part in modulations])
        modulated = lambda x: F.leaky_relu(x * next(each) + next(each), SLOPE)  # noqa: E731
        x = modulated(stem.reshape(len(z), 4, 4, -1).permute(0, 3, 1, 2))  # already channels_last
        rgb = None
        for up in ups:
            x = modulated(F.conv_transpose2d(x, up, stride=2, padding=1))
            if x.shape[2] == 16:
                x = x + modulated(F.conv2d(x, kernels["residual"], padding=1))
                rgb = F.conv2d(x, kernels["rgb16"])
            elif x.shape[2] == 32:
                rgb = double(rgb) + F.conv2d(x, kernels["rgb32"])
        return torch.tanh(F.conv2d(x, kernels["rgb64"], rgb_bias, padding=1) + double(rgb))

    return generate


def make_features(network):
    """Return the function image [B, 3, 64, 64] -> the feature maps of an EfficientNet-Lite `Network`."""
    # Outside of what is compiled: where a default device is set, torch.compile fails on NumPy.
    matrix = torch.asarray(bicubic_matrix(IMAGE_SIZE, network.image_size))
    kernels, biases = [kernel_of(kernel) for kernel in network.kernels], [tensor(bias) for bias in network.biases]

    def maps_of(image):
        weights = zip(kernels, biases, strict=True)

        def conv(x, stride=1, groups=1):
            kernel, bias = next(weights)
            if groups > 1:
                kernel = kernel.permute(1, 0, 2, 3)  # one input channel a group
            size = kernel.shape[2]
            if stride == 1:
                return F.conv2d(x, kernel, bias, padding=size // 2, groups=groups)
            before = (size - stride) // 2  # TensorFlow's "same" for even sizes
            x = F.pad(x, (before, size - stride - before) * 2)
            return F.conv2d(x, kernel, bias, stride=stride, groups=groups)

        x = channels_last(torch.einsum("jx,bcix->bcij", matrix, torch.einsum("iy,bcyx->bcix", matrix, image)))
        x, maps = F.relu6(conv(x * (127.5 / 128) + 0.5 / 128, 2)), []
        for _, stride, channels, filters, expansion in network.blocks:
            y = F.relu6(conv(x)) if expansion > 1 else x
            y = conv(F.relu6(conv(y, stride, y.shape[1])))
            x = x + y if stride == 1 and channels == filters else y
            maps.append(x)
        return [*maps, F.relu6(conv(x))]

    return maps_of


def make_classifier(network):
    """Return the function image [B, 3, 64, 64] -> calibrated logits [B, num_classes], "other" last, of a `Student`."""
    maps_of, shift, scale = make_features(network.network), tensor(network.shift), tensor(network.scale)
    hidden, hidden_bias = tensor(network.hidden.kernel), tensor(network.hidden.bias)
    head, head_bias = tensor(network.head.kernel), tensor(network.head.bias)
    temperature, other_bias = tensor(network.temperature), tensor(network.other_bias)

    def classify(image):
        maps = maps_of(image)
        features = torch.cat([maps[k].mean((2, 3)) for k in (*TAPS, -1)], 1)
        logits = F.silu((features - shift) * scale @ hidden + hidden_bias) @ head + head_bias
        return torch.cat([logits[:, :-1], logits[:, -1:] + other_bias], 1) / temperature

    return classify


def make_log_prob(generator, classifier, label):
    """Return the function z [B, latent_dim] -> log p(class `label` | image) + log Normal(z; 0, I), [B]."""
    generate, classify = make_generator(generator), make_classifier(classifier)
    log_two_pi = float(np.log(2 * np.pi))

    def log_prob(z):
        prior = -0.5 * (z.square().sum(1) + z.shape[1] * log_two_pi)
        return prior + torch.log_softmax(classify(generate(z)), 1)[:, label]

    return log_prob
