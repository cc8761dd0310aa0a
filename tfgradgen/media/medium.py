"""The protocol of a medium: everything that depends on what a generator gives. One file implements each."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from tfgradgen.core.checks import check_real
from tfgradgen.core.contracts import Tensor

MIN_RATE, MAX_RATE = 1.0, 1e6  # samples or frames per second; WAV takes none below 1
MAX_RATIO = 100.0  # of the rates of a generator and a classifier: a sound becomes as much longer
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA

Dims = Sequence[int | None]


@dataclass(frozen=True)
class Medium(abc.ABC):
    """A kind of thing that a generator gives or a classifier takes, with its shape and rate.

    A batch of them is float32 [B, *shape] in [-1, 1]; stored, it is `dtype` [B, *shape].

    Attributes:
      shape: Sizes of the `axes` of one. None in the input of a classifier that takes any size.
      rate: Samples or frames per second; None for a medium without time, or if it is unknown.
      kind: Name of the medium, in model.json and run.json; also the name of its array in samples.npz.
      noun: What one is called in messages, and the name of its files before the number of the chain.
      plural: What several are called in messages.
      element: What one stored value is called in messages.
      axes: Names of the axes of one.
      dtype: NumPy type of what is stored.
      bits: Number of bits of a stored value.
      half_step: Half of the distance between two stored values, in units of [-1, 1].
      usual_range: Whether models of this medium agree on one range, [-1, 1], so that it need not be guessed.
      has_channels: Whether the last axis is that of colours.
      rate_name: Entry of model.json that gives the rate; '' for a medium without time.
      usual_rate: The rate that is assumed if nothing gives one; None for a medium without time.
      ending: Ending of its files.
      mime: Media type of its files.
      joined_name: Name of the file with all of a run; '' if grid.png is that file.
      is_small: Whether a run always writes a file of each chain.
      is_audible: Whether its files are played by a person who listens; others are shown.
      free_size: What stands for any size when a model is tried on noise.
      distance_name: Name of the measure of `distances`, a column of `compare`.
    """

    shape: tuple[int | None, ...]
    rate: float | None = None

    kind: ClassVar[str]
    noun: ClassVar[str]
    plural: ClassVar[str]
    element: ClassVar[str] = "pixel"
    axes: ClassVar[tuple[str, ...]]
    dtype: ClassVar[Any]
    bits: ClassVar[int]
    half_step: ClassVar[float]
    usual_range: ClassVar[bool] = False
    has_channels: ClassVar[bool] = True
    rate_name: ClassVar[str] = ""
    usual_rate: ClassVar[float | None] = None
    ending: ClassVar[str]
    mime: ClassVar[str]
    joined_name: ClassVar[str] = ""
    is_small: ClassVar[bool] = True
    is_audible: ClassVar[bool] = False
    free_size: ClassVar[int] = 64
    distance_name: ClassVar[str]

    @property
    def used_rate(self) -> float:
        """The rate, or the usual one if it is unknown; 0 for a medium without time."""
        return self.rate or self.usual_rate or 0.0

    @classmethod
    @abc.abstractmethod
    def takes(cls, dims: Dims) -> bool:
        """Return whether `dims`, the axes after the batch, can be those of this medium, as a model has them."""

    @classmethod
    @abc.abstractmethod
    def canonical(cls, values: Any) -> Any:
        """Return `values`, the output of a model whose axes this medium `takes`, as [B, *shape]."""

    @abc.abstractmethod
    def fitted(self, values: Tensor, rate: float | None) -> Tensor:
        """Convert `values` [B, ...] of this kind, at `rate`, to the shape and rate of this medium, with gradients.

        Args:
          values: float32 [B, ...] of any sizes, with the channels of this medium.
          rate: That of `values`; None for the same rate.
        """

    @abc.abstractmethod
    def stored(self, values: Any) -> np.ndarray:
        """Convert `values` [B, *shape] in [-1, 1] to what is stored, `dtype`; values outside of the range are clipped."""

    @abc.abstractmethod
    def values(self, stored: np.ndarray) -> np.ndarray:
        """Return what `stored` stands for, float32 [B, *shape] in [-1, 1]."""

    @abc.abstractmethod
    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """Return a still of each, uint8 [B, height, width, 1, 3 or 4 channels], for grids and films."""

    @abc.abstractmethod
    def file(self, one: np.ndarray) -> bytes:
        """Return one as the content of a file of type `mime`."""

    @abc.abstractmethod
    def distances(self, stored: np.ndarray) -> np.ndarray | None:
        """Return the measure `distance_name` of all pairs, [N, N]; None if these are too small for it."""

    def joined(self, stored: np.ndarray) -> bytes:
        """Return all as one file, named `joined_name`."""
        raise NotImplementedError(f"{self.kind} has no joined file")

    def frames(self, stored: np.ndarray) -> list[Image.Image]:
        """Return all side by side as images in time, `rate` per second; [] for a medium that is not seen to move."""
        return []

    def file_name(self, chain: int, num_chains: int) -> str:
        """Return the name of the file of one chain, such that names in order are chains in order."""
        return f"{self.noun}-{chain:0{len(str(num_chains - 1))}d}{self.ending}"

    @property
    def text(self) -> str:
        """The shape and the rate in words, for messages."""
        size = " x ".join("any" if n is None else str(n) for n in self.shape)
        return f"{self.noun} {size}" + (f" at {self.used_rate:g} per second" if self.usual_rate else "")

    @property
    def record(self) -> dict[str, Any]:
        """The medium as an entry of run.json."""
        return {"kind": self.kind, "shape": list(self.shape), "rate": self.rate}

    def check_stored(self, stored: np.ndarray) -> None:
        """Raise `ValueError` unless `stored`, read from a file, is what a run stores."""
        expected = (len(stored), *self.shape)
        if stored.dtype != self.dtype or stored.shape != expected or len(self.shape) != len(self.axes):
            raise ValueError(f"{self.kind} {stored.dtype} {list(stored.shape)} instead of {np.dtype(self.dtype)} {expected}")
        if self.has_channels and stored.shape[-1] not in CHANNELS:
            raise ValueError(f"{self.plural} of {stored.shape[-1]} channels")


def check_rate(name: str, rate: Any) -> float:
    """Return `rate` as a float if it is a number from `MIN_RATE` to `MAX_RATE`; raise `UserError` otherwise."""
    return check_real(name, rate, MIN_RATE, MAX_RATE, inclusive_low=True, inclusive_high=True)


def num_columns(count: int) -> int:
    """Return the number of columns of the smallest square that holds `count` tiles."""
    return math.ceil(math.sqrt(count))
