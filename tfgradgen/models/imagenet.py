"""The classes of ImageNet (ILSVRC-2012), which most public classifiers know by number only.

The list, where it is from and how its names were chosen stand in `imagenet_labels.txt`. Torchvision has the same names in the
same order, but for two that both lists had to tell apart.
"""

import functools
from pathlib import Path

from tfgradgen.core.checks import fail
from tfgradgen.models.loading.metadata import Label

FILE = Path(__file__).with_name("imagenet_labels.txt")
BACKGROUND = Label("background", background=True)


def imagenet_labels(num_outputs: int) -> tuple[Label, ...]:
    """The labels of an ImageNet classifier of `num_outputs` outputs, in their order.

    1000: the classes, 0 tench to 999 toilet_tissue. 1001: a background first, so that class k is output k + 1.

    Raises:
      UserError: any other number.
    """
    if num_outputs not in (1000, 1001):
        raise fail("ImageNet labels", "1000 outputs, or 1001 with a background", num_outputs, "give the model's own labels")
    return _classes() if num_outputs == 1000 else (BACKGROUND, *_classes())


@functools.cache
def _classes() -> tuple[Label, ...]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple(Label(name, wnid, synset) for wnid, name, synset in rows)
