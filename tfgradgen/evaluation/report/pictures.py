"""The folder `pictures` of a comparison: all images, and the sounds or clips that report.md links to and report.html plays."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from tfgradgen.core.contracts import GeneratorLike
from tfgradgen.core.files import own_folder
from tfgradgen.evaluation.report.grids import SIDE
from tfgradgen.evaluation.scored_images import ScoredImages
from tfgradgen.io.folders import safe_filename
from tfgradgen.media.image import picture
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import decoded
from tfgradgen.viewing.html import MOST_BYTES, embedded

PICTURES = "pictures"


def write_pictures(
    out: Path,
    scored: Mapping[str, Mapping[str, ScoredImages]],
    z: Mapping[str, Mapping[str, np.ndarray]],
    generators: Mapping[str, GeneratorLike],
    medium: Medium,
) -> dict[tuple[str, str], str]:
    """Write `out`/pictures in place of an earlier one: a folder for each row, with an image for each label and chain.

    Args:
      out: The folder of the comparison.
      scored: The images, by row and label.
      z: Their latent points; photographs have none.
      generators: The generators, by label, in the order of the labels.
      medium: What they make. Of sounds and clips the images are stills, and each sound or clip is a file too.

    Returns:
      For each row and label, the path in `out` of one file with the sounds or clips in a tile of grids.png.
    """
    beside, joined, labels = own_folder(out / f".{PICTURES}.partial"), {}, [*generators]
    shutil.rmtree(beside)
    for row, by_label in scored.items():
        (beside / row).mkdir(parents=True)
        for label, seen in by_label.items():
            stem = f"{labels.index(label):04d}_{safe_filename(label)}"
            for chain, image in enumerate(seen.image):
                picture(image).save(beside / row / f"{stem}_{chain:04d}.png")
            if medium.joined_name and label in z.get(row, {}):
                joined[row, label] = f"{PICTURES}/{row}/{_write_media(beside / row, stem, generators[label], z[row][label])}"
    earlier = out / f".{PICTURES}.old"
    shutil.rmtree(earlier, ignore_errors=True)
    if (out / PICTURES).exists():
        (out / PICTURES).rename(earlier)
    beside.rename(out / PICTURES)
    shutil.rmtree(earlier, ignore_errors=True)
    return joined


def _write_media(folder: Path, stem: str, generator: GeneratorLike, z: np.ndarray) -> str:
    """Write the sounds or clips of `z`, each as a file and the first ones as one; return the name of that one."""
    medium, stored = decoded(generator, z)
    for chain, one in enumerate(stored):
        (folder / f"{stem}_{chain:04d}{medium.ending}").write_bytes(medium.file(one))
    name = f"{stem}{medium.ending}"
    (folder / name).write_bytes(medium.joined(stored[: SIDE * SIDE]))
    return name


def sources(out: Path, paths: Iterable[str], mime: str) -> dict[str, str]:
    """Return what plays the files `paths` in `out` within a page, by the paths as URLs, if they fit into `MOST_BYTES`."""
    found, left = {}, MOST_BYTES
    for path in paths:
        content = (out / path).read_bytes()
        left -= len(content)
        if left >= 0:
            found[quote(path)] = embedded(mime, content)
    return found
