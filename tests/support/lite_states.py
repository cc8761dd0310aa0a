"""Weights of EfficientNet-Lite."""

import numpy as np

from tests.support.tooling import tool


def random_state(variant: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the content of the package of `variant`, with random numbers."""
    state = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        state[f"{conv}.weight"] = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{name}"] = rng.uniform(0.5, 1.5, shape[0]).astype("float32")

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    for k, (kernel, _, channels, filters, expansion) in enumerate(tool("efficientnet_lite").blocks_of(variant)):
        wide = channels * expansion
        if expansion > 1:
            add(f"_blocks.{k}._expand_conv", f"_blocks.{k}._bn0", (wide, channels, 1, 1))
        add(f"_blocks.{k}._depthwise_conv", f"_blocks.{k}._bn1", (wide, 1, kernel, kernel))
        add(f"_blocks.{k}._project_conv", f"_blocks.{k}._bn2", (filters, wide, 1, 1))
    add("_conv_head", "_bn1", (1280, filters, 1, 1))
    return state
