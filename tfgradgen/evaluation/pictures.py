"""What networks that guided no chain say of pictures: the judge of their class, the discriminator of their naturalness."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.arrays import read_npz
from tfgradgen.core.checks import fail
from tfgradgen.core.files import atomic_file
from tfgradgen.core.parsing import parsing
from tfgradgen.evaluation.diversity import ms_ssim_pairs
from tfgradgen.io.images import read_pictures
from tfgradgen.models.classifier import Classifier, load_as
from tfgradgen.models.discriminator import load_discriminator, natural_index
from tfgradgen.models.loading.settings import ClassifierSettings

BATCH = 100
FEATURES = "features"  # the signature of the judge
ENDINGS = (".jpeg", ".jpg", ".png")
MIN_PHOTOGRAPHS = 12  # of a class: half of them still have the five neighbours that density and coverage count


class Pictures(NamedTuple):
    """Of one class, as NumPy arrays.

    features: [N, D] of the judge. log_natural: [N], the discriminator's log p(natural). judge_log_prob: [N], the judge's log p
    of the class. judge_is_right: [N] bool, whether it names the class. similarity: [N, N], MS-SSIM of each pair, NaN where the
    pictures are too small for it. image: uint8 [N, height, width, channels]; no rows where only the rest is known.
    """

    features: np.ndarray
    log_natural: np.ndarray
    judge_log_prob: np.ndarray
    judge_is_right: np.ndarray
    similarity: np.ndarray
    image: np.ndarray

    def part(self, rows: Any) -> "Pictures":
        """Only these pictures."""
        known = (column[rows] if len(column) else column for column in self)
        return Pictures(*known)._replace(similarity=self.similarity[rows][:, rows])


class Observer:
    """Judge and discriminator.

    Args:
      judge: names classes; its SavedModel has a signature `features`, picture -> [B, D].
      discriminator: has a label `natural`.

    Raises:
      UserError: one of them lacks that.
    """

    def __init__(self, judge: Classifier, discriminator: Classifier):
        self.judge, self.discriminator = judge, discriminator
        signatures = getattr(judge.module, "signatures", {})
        if FEATURES not in signatures:
            found = ", ".join(sorted(signatures)) or "none"
            raise fail("judge", f"a SavedModel with a signature '{FEATURES}'", found, "export the judge with one")
        self._natural = natural_index(discriminator)
        self._features = signatures[FEATURES]

    @property
    def sha256(self) -> str:
        return f"{self.judge.sha256} {self.discriminator.sha256}"

    def class_index(self, label: str) -> int:
        """The judge's output for the class named `label`: by its name alone, for the judge may order its classes otherwise.

        Raises:
          UserError: it knows none of that name.
        """
        names = [known.name for known in self.judge.labels]
        if label not in names:
            raise fail(
                "judge", f"a class named {label}", ", ".join(names[:5]), "give a judge that knows it, or leave that label out"
            )
        return names.index(label)

    def look(self, image: np.ndarray, label: str) -> Pictures:
        """What they say of uint8 `image` [N, height, width, channels], wanted as `label` (which the judge must know)."""
        index = self.class_index(label)
        natural, class_log_probs, features = [], [], []
        for k in range(0, len(image), BATCH):
            shown = tf.cast(image[k : k + BATCH], tf.float32) / 127.5 - 1.0
            natural.append(tf.nn.log_softmax(self.discriminator(shown))[:, self._natural].numpy())
            class_log_probs.append(tf.nn.log_softmax(self.judge(shown)).numpy())
            features.append(next(iter(self._features(self.judge.as_input(shown)).values())).numpy())
        log_probs, similarity = np.concatenate(class_log_probs), ms_ssim_pairs(image)
        return Pictures(
            np.concatenate(features),
            np.concatenate(natural),
            log_probs[:, index],
            log_probs.argmax(1) == index,
            np.full([len(image)] * 2, np.nan) if similarity is None else similarity,
            image,
        )


def load_observer(judge: str | Path, discriminator: str | Path, allow_unknown_ops: bool = False) -> Observer:
    """The observer of two models, named as for `load_classifier` and `load_discriminator`."""
    names = load_as("judge", judge, ClassifierSettings(allow_unknown_ops=allow_unknown_ops))
    return Observer(names, load_discriminator(discriminator, allow_unknown_ops=allow_unknown_ops))


class Photographs:
    """Held-out photographs as an observer sees them: `pictures` by class; `sha256` of the observer's networks."""

    def __init__(self, pictures: dict[str, Pictures], sha256: str):
        self.pictures, self.sha256 = pictures, sha256

    def save(self, path: Path) -> None:
        """Writes all but the images themselves, half-precision."""
        arrays: dict[str, Any] = {"names": np.asarray(list(self.pictures)), "sha256": np.asarray(self.sha256)}
        for k, pictures in enumerate(self.pictures.values()):
            for name, column in pictures._replace(image=pictures.image[:0])._asdict().items():
                arrays[f"{k}_{name}"] = column.astype(np.float16) if column.dtype == np.float32 else column
        with atomic_file(path) as stream:
            np.savez_compressed(stream, **arrays)


def load_photographs(path: Path) -> Photographs:
    """What `Photographs.save` wrote.

    Raises:
      UserError: it is damaged.
    """
    with parsing(f"photographs {path}", "what was measured of photographs", "give --photographs=FOLDER"):
        loaded = read_npz(path)
        names, fields = loaded["names"].tolist(), Pictures._fields
        rows = [[loaded[f"{k}_{name}"] for name in fields] for k in range(len(names))]
        wide = [[a.astype(np.float32) if a.dtype == np.float16 else a for a in row] for row in rows]
        return Photographs({str(name): Pictures(*row) for name, row in zip(names, wide, strict=True)}, str(loaded["sha256"]))


def look_at_photographs(folder: Path, labels: Sequence[str], observer: Observer, image_shape: Sequence[int]) -> Photographs:
    """Of `folder`/<label>/*, or of val/<label>/* in it, JPEG or PNG, brought to `image_shape` (height, width, channels).

    Raises:
      UserError: a label has fewer than `MIN_PHOTOGRAPHS` pictures there, or one that cannot be read.
    """
    root = folder / "val" if (folder / "val").is_dir() else folder
    pictures = {}
    for label in labels:
        if label in ("", ".", "..") or "/" in label or "\\" in label:
            raise fail("photographs", "a class whose name can be that of a folder", label, "leave that label out")
        paths = sorted(path for path in (root / label).glob("*") if path.suffix.lower() in ENDINGS)
        if len(paths) < MIN_PHOTOGRAPHS:
            expected = f"{MIN_PHOTOGRAPHS} pictures or more in {root / label}"
            raise fail("photographs", expected, len(paths), "give a folder with one folder of them a label")
        image = read_pictures(paths, image_shape[1], image_shape[0])
        pictures[label] = observer.look(image, label)
    return Photographs(pictures, observer.sha256)
