"""Scores of images from networks that do not guide chains: a judge of the class and a discriminator of naturalness.

Sounds and clips are scored likewise, as their medium stores them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.arrays import read_npz
from tfgradgen.core.checks import fail
from tfgradgen.core.files import atomic_file
from tfgradgen.core.parsing import parsing
from tfgradgen.io.photographs import PhotographFiles, is_folder_name
from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium
from tfgradgen.models.classifier import Classifier, load_as
from tfgradgen.models.discriminator import load_discriminator, natural_index
from tfgradgen.models.features import FEATURES, features_fn
from tfgradgen.models.loading.settings import ClassifierSettings

BATCH = 100
MIN_PHOTOGRAPHS = 12  # per class; half of them must have the five neighbours that density and coverage need


class ScoredImages(NamedTuple):
    """Images of one class and their scores, as NumPy arrays.

    Attributes:
      features: [N, D], features of the judge.
      log_natural: [N], the discriminator's log p(natural); NaN without one.
      judge_log_prob: [N], the judge's log p(class); NaN for a text, which is no class.
      judge_is_right: [N], 1 if the judge's most likely class is this one, otherwise 0; NaN for a text.
      similarity: [N, N], the `Medium.distances` of all pairs, of images the MS-SSIM; NaN if they are too small.
      image: uint8 [N, height, width, channels], stills of sounds and clips; no rows if only the scores are known.
    """

    features: np.ndarray
    log_natural: np.ndarray
    judge_log_prob: np.ndarray
    judge_is_right: np.ndarray
    similarity: np.ndarray
    image: np.ndarray

    def part(self, rows: Any) -> "ScoredImages":
        """Return only the images `rows`."""
        known = (column[rows] if len(column) else column for column in self)
        return ScoredImages(*known)._replace(similarity=self.similarity[rows][:, rows])


class Observer:
    """A judge and a discriminator.

    Args:
      judge: A classifier whose SavedModel has a signature `features`, image -> [B, D].
      discriminator: A classifier with a label `natural`; None for none.
      generator: The generator whose images, sounds or clips are scored; None for one of images.
      has_classes: Whether labels are classes of the judge. It knows no texts; of these only its features count.

    Raises:
      UserError: The judge has no such signature, or the discriminator no such label, or one is of another medium.
    """

    def __init__(self, judge: Classifier, discriminator: Classifier | None, generator: Any = None, has_classes: bool = True):
        self.medium: Medium = Image(()) if generator is None else generator.medium
        for name, network in (("judge", judge), ("discriminator", discriminator)):
            if network and network.kind != self.medium.kind:
                expected = f"a network of {self.medium.plural}, as the generator makes them"
                raise fail(name, expected, f"one of {network.medium.plural}", f"give --{name}=MODEL of {self.medium.plural}")
        self.judge = judge if generator is None else judge.at_rate_of(generator)
        self.discriminator, self.has_classes = discriminator, has_classes
        see = features_fn(self.judge)
        if see is None:
            found = ", ".join(sorted(getattr(judge.module, "signatures", {}))) or "none"
            raise fail("judge", f"a SavedModel with a signature '{FEATURES}'", found, "export the judge with one")
        self._natural = natural_index(discriminator) if discriminator else None
        self._features = see

    @property
    def sha256(self) -> str:
        return f"{self.judge.sha256} {self.discriminator.sha256 if self.discriminator else ''}"

    def class_index(self, label: str) -> int:
        """Return the judge's output for the class named `label`. Its classes may have another order than the classifier's.

        Raises:
          UserError: The judge has no class of that name.
        """
        names = [known.name for known in self.judge.labels]
        if label not in names:
            remedy = "give a judge that has it, or leave that label out"
            raise fail("judge", f"a class named {label}", ", ".join(names[:5]), remedy)
        return names.index(label)

    def observe(self, image: np.ndarray, label: str) -> ScoredImages:
        """Score `image` [N, ...], as the medium stores it, as images of `label`, a class of the judge or a text."""
        natural, class_log_probs, features = [], [], []
        for k in range(0, len(image), BATCH):
            shown = tf.constant(self.medium.values(image[k : k + BATCH]))
            natural.append(self._log_natural(shown))
            class_log_probs.append(tf.nn.log_softmax(self.judge(shown)).numpy())
            features.append(self._features(shown).numpy())
        log_probs, similarity = np.concatenate(class_log_probs), self.medium.distances(image)
        return ScoredImages(
            np.concatenate(features),
            np.concatenate(natural),
            *self._opinion(log_probs, label),
            np.full([len(image)] * 2, np.nan) if similarity is None else similarity,
            self.medium.pictures(image),
        )

    def _opinion(self, log_probs: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(label) and whether it is the most likely class, from the judge's `log_probs`; see `ScoredImages`."""
        if not self.has_classes:
            return np.full(len(log_probs), np.nan, np.float32), np.full(len(log_probs), np.nan, np.float32)
        index = self.class_index(label)
        return log_probs[:, index], log_probs.argmax(1) == index

    def _log_natural(self, image: tf.Tensor) -> np.ndarray:
        if self.discriminator is None:
            return np.full(len(image), np.nan, np.float32)
        log_probs: np.ndarray = tf.nn.log_softmax(self.discriminator(image))[:, self._natural].numpy()
        return log_probs


def load_observer(
    judge: str | Path,
    discriminator: str | Path | None,
    allow_unknown_ops: bool = False,
    generator: Any = None,
    has_classes: bool = True,
) -> Observer:
    """Load an observer from two models, given as for `load_classifier` and `load_discriminator`; see `Observer`."""
    names = load_as("judge", judge, ClassifierSettings(allow_unknown_ops=allow_unknown_ops))
    tells = load_discriminator(discriminator, allow_unknown_ops=allow_unknown_ops) if discriminator else None
    return Observer(names, tells, generator, has_classes)


class Photographs:
    """Held-out photographs with the scores of an observer: `scored` by class; `sha256` of the observer's networks."""

    def __init__(self, scored: dict[str, ScoredImages], sha256: str):
        self.scored, self.sha256 = scored, sha256

    def save(self, path: Path) -> None:
        """Write everything except the images, in half precision."""
        arrays: dict[str, Any] = {"names": np.asarray(list(self.scored)), "sha256": np.asarray(self.sha256)}
        for k, scored in enumerate(self.scored.values()):
            for name, column in scored._replace(image=scored.image[:0])._asdict().items():
                arrays[f"{k}_{name}"] = column.astype(np.float16) if column.dtype == np.float32 else column
        with atomic_file(path) as stream:
            np.savez_compressed(stream, **arrays)


def load_photographs(path: Path) -> Photographs:
    """Read a file that `Photographs.save` wrote.

    Raises:
      UserError: The file is damaged.
    """
    with parsing(f"photographs {path}", "scores of photographs", "give --photographs=FOLDER"):
        loaded = read_npz(path)
        names, fields = loaded["names"].tolist(), ScoredImages._fields
        rows = [[loaded[f"{k}_{name}"] for name in fields] for k in range(len(names))]
        wide = [[a.astype(np.float32) if a.dtype == np.float16 else a for a in row] for row in rows]
        return Photographs(
            {str(name): ScoredImages(*row) for name, row in zip(names, wide, strict=True)}, str(loaded["sha256"])
        )


def observe_photographs(folder: Path, labels: Sequence[str], observer: Observer, image_shape: Sequence[int]) -> Photographs:
    """Score the photographs <label>/*, or val/<label>/*, JPEG or PNG, in a folder or .tar.

    Photographs are resized to `image_shape` (height, width, channels).

    Raises:
      UserError: A label has fewer than `MIN_PHOTOGRAPHS` photographs, or one cannot be read.
    """
    files = PhotographFiles(folder)
    part = "val/" if files.has_part("val") else ""
    scored = {}
    for label in labels:
        if not is_folder_name(label):
            raise fail("photographs", "a class name that can be a folder name", label, "leave that label out")
        names = files.inside([f"{part}{label}"])
        if len(names) < MIN_PHOTOGRAPHS:
            expected = f"at least {MIN_PHOTOGRAPHS} images in {part}{label}/ of {folder}"
            raise fail("photographs", expected, len(names), "give a folder or .tar with one folder per label")
        image = np.stack(list(files.read(names, image_shape[1], image_shape[0])))
        scored[label] = observer.observe(image, label)
    return Photographs(scored, observer.sha256)
