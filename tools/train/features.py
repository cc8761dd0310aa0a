"""Frozen features for training a generator, in Keras 3: feature maps of growing depth, each [B, H, W, C].

Both kinds have `channels`, the numbers of channels of their maps, and `image_size`, the size of their input in pixels.
"""

import functools

import h5py
import keras
import numpy as np
from keras import ops

from tools.train.classifier_networks import ResidualClassifier
from tools.train.efficientnet_lite import Pretrained


def load_features(path, dtype="float32"):
    """Load SqueezeNet from an .npz, a teacher from weights (.h5) of train_classifier.py, or EfficientNet-Lite1 as "lite1"."""
    if path == "lite1":
        return LiteFeatures()  # in float32: on a CPU, depthwise convolutions gain nothing from a shorter type
    return SqueezeNetFeatures(path, dtype=dtype) if str(path).endswith(".npz") else ClassifierFeatures(path, dtype=dtype)


class JoinedFeatures(keras.layers.Layer):
    """The maps of several feature networks, one after the other; all see the image at the largest of their sizes."""

    def __init__(self, parts, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.parts = parts
        self.channels = tuple(channels for part in parts for channels in part.channels)
        self.image_size = max(part.image_size for part in parts)

    def call(self, image):
        return [tap for part in self.parts for tap in part(image)]


class LiteFeatures(keras.layers.Layer):
    """Frozen EfficientNet-Lite1 with the random mixing of Projected GANs (Sauer et al. 2021, section 3.2).

    Taps: the blocks with 24, 40, 112 and 320 channels. Each goes through a fixed random 1x1 convolution to `channels`. Then the
    next coarser map is added, doubled in size, and the sum goes through a fixed random 3x3 convolution.
    """

    BLOCKS = (3, 6, 14, 20)
    channels = (48, 64, 96, 128)
    image_size = 96

    def __init__(self, pretrained=None, dtype="float32", seed=5, **kwargs):
        super().__init__(dtype=dtype, trainable=False, **kwargs)
        self.pretrained = pretrained or Pretrained("lite1", self.image_size)
        rng = np.random.default_rng(seed)
        draw = lambda *shape: np.asarray(rng.standard_normal(shape), "float32") / np.sqrt(np.prod(shape[:-1]))  # noqa: E731
        sources = [self.pretrained.network.blocks[k][3] for k in self.BLOCKS]
        self.projections = [draw(1, 1, source, channels) for source, channels in zip(sources, self.channels, strict=True)]
        self.narrowings = [draw(1, 1, coarse, fine) for fine, coarse in zip(self.channels, self.channels[1:], strict=False)]
        self.mixings = [draw(3, 3, channels, channels) for channels in self.channels]

    def maps(self, image):
        """Return the feature maps before the mixing, and the last one, which `log_probs` takes."""
        maps = self.pretrained.network.maps(ops.cast(image, self.compute_dtype))
        return [maps[k] for k in self.BLOCKS], maps[-1]

    def log_probs(self, last):
        """Return log p of ImageNet's 1000 classes [B, 1000] float32, from the last map."""
        pooled = ops.mean(ops.cast(last, "float32"), axis=(1, 2))
        return ops.log_softmax(self.pretrained.logits(pooled), axis=-1)

    def mixed(self, maps):
        """Return the taps of the maps before the mixing."""
        conv = lambda x, kernel: ops.conv(x, ops.cast(kernel, x.dtype), padding="same")  # noqa: E731
        taps, coarser = [], None
        for k in reversed(range(len(maps))):
            x = conv(maps[k], self.projections[k])
            if coarser is not None:
                doubled = ops.repeat(ops.repeat(coarser, 2, axis=1), 2, axis=2)
                x = x + conv(doubled, self.narrowings[k])
            coarser = conv(x, self.mixings[k])
            taps.append(coarser)
        return taps[::-1]

    def call(self, image):
        return self.mixed(self.maps(image)[0])


class ClassifierFeatures(keras.layers.Layer):
    """The four stages of a `ResidualClassifier`, which can be trained from photographs alone."""

    channels = ResidualClassifier.CHANNELS
    image_size = 64

    def __init__(self, path, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, trainable=False, **kwargs)
        with h5py.File(path) as file:
            num_outputs = file["head/vars/1"].shape[0]
        self.network = ResidualClassifier(num_outputs, dtype=dtype)
        self.network(np.zeros((1, 64, 64, 3), "float32"))
        self.network.load_weights(path)
        self.network.trainable = False

    def call(self, image):
        return self.network.taps(ops.cast(image, self.compute_dtype), training=False)


class SqueezeNetFeatures(keras.layers.Layer):
    """Frozen SqueezeNet v1.0 (Iandola et al. 2016): `image [B, S, S, 3]` RGB in [-1, 1] -> four feature maps.

    Taps: the pool after conv1 (96 channels), fire4 (256), fire8 (512), fire9 (512). `path` is an .npz of
    `<layer>_w [out, in, height, width]` and `<layer>_b`, trained on BGR in 0..255 minus (104, 117, 123).
    """

    channels = (96, 256, 512, 512)
    image_size = 88  # with 64 pixels, the map of fire9 would be too small

    def __init__(self, path, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, trainable=False, **kwargs)
        self.kernels, self.biases = {}, {}
        with np.load(path) as file:
            for name in file.files:
                if name.endswith("_w"):
                    key = name[:-2]
                    kernel = file[name].astype("float32").transpose(2, 3, 1, 0)
                    bias = file[f"{key}_b"].astype("float32")
                    if key.startswith("conv1"):
                        kernel, bias = self._space_to_depth_form(kernel, bias)
                    self.kernels[key] = ops.cast(kernel, self.compute_dtype)
                    self.biases[key] = ops.cast(bias, self.compute_dtype)

    @staticmethod
    def _space_to_depth_form(kernel, bias):
        # 7x7 stride 2 on 3 channels is slow on CPU; 4x4 stride 1 on 12 channels is the same map. The input's
        # RGB order and [-1, 1] range are folded in: x255 = 127.5 x + 127.5 - mean.
        kernel = kernel[:, :, ::-1, :]
        offset = 127.5 - np.array([123.0, 117.0, 104.0])
        bias = bias + (kernel * offset[None, None, :, None]).sum((0, 1, 2))
        padded = np.zeros((8, 8, *kernel.shape[2:]), "float32")
        padded[:7, :7] = kernel * 127.5
        out = padded.shape[-1]
        return padded.reshape(4, 2, 4, 2, 3, out).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 12, out), bias

    def _conv(self, x, key, padding="valid"):
        return ops.relu(ops.conv(x, self.kernels[key], padding=padding) + self.biases[key])

    @staticmethod
    def _pool(x):
        # Caffe rounds the number of windows up; the input is not negative, so zeros never win.
        extra = (-(x.shape[1] - 3)) % 2
        x = ops.pad(x, [[0, 0], [0, extra], [0, extra], [0, 0]])
        if keras.backend.backend() != "jax":
            return ops.max_pool(x, 3, 2, padding="valid")
        # The gradient of XLA's pooling is slow on a GPU; that of maxima of shifted maps is not.
        reach = x.shape[1] - 2
        shifted = [x[:, i : i + reach : 2, j : j + reach : 2] for i in range(3) for j in range(3)]
        return functools.reduce(ops.maximum, shifted)

    def _fire(self, x, i):
        squeezed = self._conv(x, f"fire{i}__conv1x1_1")
        return ops.concatenate(
            [self._conv(squeezed, f"fire{i}__conv1x1_2"), self._conv(squeezed, f"fire{i}__conv3x3_2", "same")], axis=-1
        )

    def call(self, image):
        size = image.shape[1] // 2
        x = ops.reshape(ops.cast(image, self.compute_dtype), (-1, size, 2, size, 2, 3))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, size, size, 12))
        x = self._pool(self._conv(x, "conv1"))
        taps = [x]
        for i in (2, 3, 4):
            x = self._fire(x, i)
        taps.append(x)
        x = self._pool(x)
        for i in (5, 6, 7, 8):
            x = self._fire(x, i)
        taps.append(x)
        taps.append(self._fire(self._pool(x), 9))
        return taps
