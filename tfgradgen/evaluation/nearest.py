"""The photograph that is nearest to each image of a run, so that one sees whether the generator has memorized any.

Near means in the features of a network that guides no chain, the judge: 1 - cosine of the angle between two rows of features.
A distance says little by itself. So the photographs of the class are measured in the same way: each has a nearest other one.
"""

import logging
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Progress
from tfgradgen.core.files import path_of
from tfgradgen.io.photographs import REMEDY, PhotographFiles
from tfgradgen.media.image import Image, from_uint8
from tfgradgen.media.medium import Medium
from tfgradgen.models.classifier import Classifier, load_as
from tfgradgen.models.features import FEATURES, features_fn
from tfgradgen.models.loading.settings import ClassifierSettings
from tfgradgen.models.shipped import default_model
from tfgradgen.results.record import NEAREST
from tfgradgen.results.result import SampleResult

logger = logging.getLogger(__name__)

BATCH = 100
MIN_PHOTOGRAPHS, MAX_PHOTOGRAPHS = 2, 20_000
MAX_COMPARED = 2000  # photographs whose nearest other one is sought
QUANTILES = (0.05, 0.5)
NAN = float("nan")


class _Seen(NamedTuple):
    """The photographs that images of one class are compared with: names, unit features [N, D], and nearest others [M]."""

    names: list[str]
    features: np.ndarray
    between: np.ndarray
    is_class: bool


class Gallery:
    """Photographs that images are compared with.

    Args:
      photographs: A folder or .tar with LABEL/*.jpg, train/LABEL/*.jpg or val/LABEL/*.jpg. A class without a folder is compared
        with all photographs.
      judge: A classifier whose SavedModel has a signature `features`, or its folder; by default the shipped judge.

    Raises:
      UserError: There are no photographs, or the judge has no features.
    """

    def __init__(self, photographs: str | os.PathLike[str], judge: Classifier | str | os.PathLike[str] | None = None):
        self.place = path_of("photographs", photographs)
        self._files = PhotographFiles(self.place)
        if judge is None or isinstance(judge, str | os.PathLike):
            judge = load_as("judge", str(judge or default_model("judge")), ClassifierSettings())
        see = features_fn(judge)
        if see is None:
            raise fail("judge", f"a SavedModel with a signature '{FEATURES}'", judge.path, "export the judge with one")
        self.judge, self._see = judge, see
        self._seen: dict[tuple[Any, ...], _Seen] = {}

    def names_of(self, label: str) -> tuple[list[str], bool]:
        """Return the names of the photographs that images of `label` are compared with, and whether they are of that class.

        Raises:
          UserError: There are too few or too many.
        """
        own = self._files.of_class(label)
        names = own or self._files.every()
        if not MIN_PHOTOGRAPHS <= len(names) <= MAX_PHOTOGRAPHS:
            what = f"{len(names)} in {self.place}{'' if own else f', which has no folder {label}'}"
            raise fail("photographs", f"{MIN_PHOTOGRAPHS} to {MAX_PHOTOGRAPHS:,} JPEG or PNG files for {label}", what, REMEDY)
        return names, bool(own)

    def check(self, labels: Iterable[str]) -> list[str]:
        """Return which of `labels` have no photographs of their own.

        Raises:
          UserError: There are too few or too many photographs for a label, or one cannot be read.
        """
        found = {label: self.names_of(label) for label in labels}
        every = dict.fromkeys(name for names, _ in found.values() for name in names)
        logger.info("reading %d photographs", len(every))
        for _ in self._files.read([*every], 1, 1):
            pass
        return [label for label, (_, is_class) in found.items() if not is_class]

    def of(self, result: SampleResult) -> SampleResult:
        """Return `result` with the nearest photograph of each image; see `nearest_photographs`."""
        check_images(result.medium)
        images, label = result.images, str(result.record["label"]["name"])
        height, width = images.shape[1:3]
        seen = self._photographs(label, width, height)
        similar = self._features(images) @ seen.features.T
        nearest = similar.argmax(1)
        chosen = np.stack(list(self._files.read([seen.names[k] for k in nearest], width, height)))
        distance = np.maximum(1.0 - similar[np.arange(len(images)), nearest], 0.0)
        low, middle = np.quantile(seen.between, QUANTILES)
        found = {
            "photographs": str(self.place),
            "num_photographs": len(seen.names),
            "is_class": seen.is_class,
            "judge": self.judge.sha256,
            "low": float(low),
            "median": float(middle),
            "num_near": int((distance < low).sum()),
            "tiles": [{"photograph": seen.names[k], "distance": float(d)} for k, d in zip(nearest, distance, strict=True)],
        }
        arguments = {**result.record["arguments"], "photographs": str(self.place)}
        return result.noted({NEAREST: found, "arguments": arguments}, chosen)

    def _photographs(self, label: str, width: int, height: int) -> _Seen:
        names, is_class = self.names_of(label)
        key = (label if is_class else None, width, height)
        if key not in self._seen:
            self._seen.clear()  # one class at a time
            parts, block = [], []
            logger.info("comparing images with %d photographs", len(names))
            for count, image in enumerate(self._files.read(names, width, height), 1):
                block.append(image)
                if len(block) == BATCH or count == len(names):
                    parts.append(self._features(np.stack(block)))
                    block = []
                    progress = Progress(count, len(names), NAN, NAN, NAN)
                    logger.debug("comparing with photographs", extra={"progress": progress, "unit": "photograph"})
            features = np.concatenate(parts)
            self._seen[key] = _Seen(names, features, _between(features), is_class)
        return self._seen[key]

    def _features(self, image: np.ndarray) -> np.ndarray:
        """Return unit features [N, D] of uint8 `image` [N, height, width, channels]."""
        shown = [tf.constant(from_uint8(image[k : k + BATCH])) for k in range(0, len(image), BATCH)]
        found: np.ndarray = np.concatenate([tf.math.l2_normalize(self._see(part), -1).numpy() for part in shown])
        return found


def check_images(medium: Medium) -> None:
    """Raise `UserError` unless `medium` is that of images, which alone can be compared with photographs."""
    if medium.kind != Image.kind:
        raise fail("photographs", "a generator of images", f"one of {medium.plural}", "leave --photographs out")


def _between(features: np.ndarray) -> np.ndarray:
    """Return the distance of photographs, at most `MAX_COMPARED` of them, to their nearest other one."""
    rows = np.unique(np.linspace(0, len(features) - 1, min(len(features), MAX_COMPARED)).astype(int))
    nearest = []
    for k in range(0, len(rows), BATCH):
        part = rows[k : k + BATCH]
        similar = features[part] @ features.T
        similar[np.arange(len(part)), part] = -np.inf
        nearest.append(1.0 - similar.max(1))
    found: np.ndarray = np.maximum(np.concatenate(nearest), 0.0)
    return found


def nearest_photographs(
    result: SampleResult,
    photographs: str | os.PathLike[str],
    judge: Classifier | str | os.PathLike[str] | None = None,
) -> SampleResult:
    """Return `result` with the nearest photograph of each image, which its report.html and run.json then show.

    Args:
      result: A result of `sample` or `load_run`.
      photographs: A folder or .tar with LABEL/*.jpg, train/LABEL/*.jpg or val/LABEL/*.jpg; at most 20,000 per class. Only the
        generator's training photographs can show that it memorized some. A label without a folder, such as a condition, is
        compared with all of them.
      judge: A classifier whose SavedModel has a signature `features`, or its folder; by default the shipped judge.

    Raises:
      UserError: There are too few or too many photographs, one cannot be read, the judge has no features, or the generator
        makes no images.
    """
    return Gallery(photographs, judge).of(result)
