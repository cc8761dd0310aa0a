"""Matplotlib figures without a display, in one style."""

from typing import Any

import numpy as np
from PIL import Image

INK, GREY = "#282828", "#8c8c8c"
WIDTH, DPI = 15.0, 100  # inches, pixels per inch


def new_figure(height: float) -> Any:
    """Return an empty white figure, `WIDTH` by `height` inches, without a window and outside pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported here because it takes most of a second
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height), DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Any, size: float = 8.0) -> None:
    """Show only the left and bottom spines of `axes`, in grey, with tick labels of `size` points."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=INK, labelsize=size)


def drawable(text: str) -> str:
    """Return `text` with ? for each character outside ASCII: the font lacks most of them, and Matplotlib would warn."""
    return text.encode("ascii", "replace").decode()


def to_image(figure: Any) -> Image.Image:
    """Return `figure` as an RGB image."""
    figure.canvas.draw()
    return Image.fromarray(np.array(figure.canvas.buffer_rgba())[..., :3].copy())
