"""The classes of ImageNet (ILSVRC-2012), which most public classifiers only number.

The list, its source and the choice of names are in `imagenet_labels.txt`. Torchvision has the same names in the same order,
except for two that would otherwise occur twice.
"""

import functools
from pathlib import Path

from tfgradgen.core.checks import fail
from tfgradgen.models.loading.metadata import Label

FILE = Path(__file__).with_name("imagenet_labels.txt")
BACKGROUND = Label("background", background=True)


def imagenet_labels(num_outputs: int) -> tuple[Label, ...]:
    """Return the labels of an ImageNet classifier, in the order of its outputs.

    Args:
      num_outputs: 1000, for the classes 0 (tench) to 999 (toilet_tissue), or 1001, with a background class first.

    Raises:
      UserError: Any other number.
    """
    if num_outputs not in (1000, 1001):
        raise fail("ImageNet labels", "1000 outputs, or 1001 with a background", num_outputs, "give the model's own labels")
    return _classes() if num_outputs == 1000 else (BACKGROUND, *_classes())


@functools.cache
def _classes() -> tuple[Label, ...]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple(Label(name, wnid, synset) for wnid, name, synset in rows)
