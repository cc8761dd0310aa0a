"""One image of a run at full size."""

from typing import Any

from PIL import Image

from tfgradgen.core.checks import check_int
from tfgradgen.play.clip import origin_of
from tfgradgen.play.limits import MOST_SCALE, SCALE
from tfgradgen.play.which import check_chain
from tfgradgen.results.result import SampleResult

MOST_SIDE = 16383  # pixels, of the enlarged image; WebP has no more


def show(result: SampleResult, chain: int, *, scale: int = SCALE) -> Image.Image:
    """Return the last image of a chain, enlarged. Neither TensorFlow nor the models are needed.

    Args:
      result: A run of `sample` or `load_run`.
      chain: The number of the chain, from 0; grid.png shows it below each image.
      scale: Factor by which height and width grow, 1..64; 1 gives the image as it is stored. The result has at most 16383
        pixels a side.

    Raises:
      UserError: There is no such chain, or the scale is out of its range.
    """
    chain = check_chain("chain", chain, result)
    image = result.images[chain]
    return enlarged(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), scale)


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """Return `picture` with `scale` times its height and width; raise `UserError` if the scale is out of its range."""
    width, height = picture.size
    scale = check_int("scale", scale, 1, max(1, min(MOST_SCALE, MOST_SIDE // max(height, width))))
    return picture if scale == 1 else picture.resize((width * scale, height * scale), Image.Resampling.BICUBIC)


def grid_record(result: SampleResult) -> dict[str, Any]:
    """Return the record of a grid of all images, best first: which run they are of."""
    return {"command": "show", "run": str(result.folder or ""), "draw": len(result.z) - 1, **origin_of(result.record)}


def show_record(result: SampleResult, chain: int, scale: int) -> dict[str, Any]:
    """Return the record of `show`: which image of which run it is."""
    return {
        "command": "show",
        "run": str(result.folder or ""),
        "chain": chain,
        "draw": len(result.z) - 1,
        "class_prob": float(result.class_prob[-1, chain]),
        "z": [float(value) for value in result.z[-1, chain]],
        "scale": scale,
        **origin_of(result.record),
    }
