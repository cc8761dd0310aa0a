"""Measures the numbers in the cards of the models of clips, saved_models/actions/, and fails if one has changed.

    python -m tools.cards.check_clips --data=CLIPS [--folder=saved_models/actions] [--draws=1024] [--write] [--sheet=FILE]

CLIPS is a folder or .tar of film strips (see tools/train/clips.py). `--write` first writes the numbers into the cards;
`--sheet` writes an image with an exact posterior draw a row, four rows an action.
"""

from pathlib import Path
from typing import Any, NamedTuple

import fire
import numpy as np
import tensorflow as tf
from PIL import Image

from tfgradgen.models.loading.metadata import fingerprint
from tools.cards.check_models import ROOT, differences
from tools.cards.figures import Figure, agreement, by_class, conclude, files
from tools.train import clips
from tools.train.export import read_measured, write_measured

SEED, BATCH = 31, 32
EVERY = 3  # frames between the windows of held-out strips
HELD_OUT = """The ninth performer took part in no training. The windows overlap and come from four recordings and their mirror
images, so they say little about the accuracy on other people. The numbers of steps were reduced after it was known."""
MAX_MEGABYTES = 8
REMARKS = {
    "generator": """"Judge's agreement with exact posterior draws" weights prior draws by p(action), as rejection sampling
would. The autoencoder and the critic saw eight performers, so draws resemble them.""",
    "classifier": HELD_OUT,
    "judge": HELD_OUT,
}


class Model(NamedTuple):
    """A loaded model: what `figures.files` reads of it."""

    module: Any
    fn: Any
    sha256: str


def loaded(folder):
    """Return the model in `folder`."""
    module = tf.saved_model.load(str(folder))
    return Model(module, module, fingerprint(folder))


def in_batches(fn, values):
    """Return `fn` of `values` [N, ...], `BATCH` at a time, as one array."""
    return np.concatenate([np.asarray(fn(values[i : i + BATCH])) for i in range(0, len(values), BATCH)])


class Measures:
    """What the figures are made of; each is computed once.

    Args:
      folder: Folder of the three models.
      data: Folder or .tar of strips.
      draws: Number of prior draws.
    """

    def __init__(self, folder, data, draws):
        self.folder, self.models = Path(folder), {}
        for name in REMARKS:
            self.models[name] = loaded(self.folder / name)
        self.pixels, self.labels = clips.Windows(clips.load(data, "val")).every(EVERY)
        z = np.random.default_rng(SEED).standard_normal((draws, self.latent_dim)).astype("float32")
        self.draws = in_batches(lambda z: clips.as_pixels(self.models["generator"].fn(z)), z)
        self.probs = {name: self.opinion(name, self.draws) for name in ("classifier", "judge")}

    @property
    def latent_dim(self):
        return self.models["generator"].module.signatures["serving_default"].inputs[0].shape[1]

    def opinion(self, name, pixels):
        """Return p(class) [N, K] of uint8 clips."""
        return in_batches(lambda x: tf.nn.softmax(self.models[name].fn(clips.as_clip(x))), pixels)

    def figures(self, name):
        """Return {what: Figure} of the card `name`."""
        num, of_draws = len(clips.ACTIONS), self.probs["classifier"]
        shape = (self.latent_dim,) if name == "generator" else self.pixels.shape[1:]
        rows = files(self.models[name], self.folder / name, shape, "clip")
        if name == "generator":
            shares = agreement(of_draws, self.probs["judge"].argmax(1), num)
            return rows | {
                f"mean p(action) over {len(self.draws)} prior draws": Figure(
                    by_class((*clips.ACTIONS, "other"), of_draws.mean(0), 3), 0.01
                ),
                "judge's agreement with exact posterior draws": Figure(by_class(clips.ACTIONS, shares), 0.02),
                "its mean over actions": Figure(f"{np.mean(shares):.3f}", 0.01),
            }
        right = self.opinion(name, self.pixels).argmax(1) == self.labels
        shares = [right[self.labels == c].mean() for c in range(num)]
        what = f"top-1 accuracy on {len(right)} windows of the 8 clips of the held-out performer"
        return rows | {
            what: Figure(f"{right.mean():.3f}", 0.01),
            "accuracy there by action": Figure(by_class(clips.ACTIONS, shares), 0.03),
        }

    def sheet(self, path, rows=4):
        """Write exact posterior draws, `rows` an action, as one image."""
        rng, shown = np.random.default_rng(SEED), []
        for k in range(len(clips.ACTIONS)):
            kept = np.flatnonzero(rng.random(len(self.draws)) < self.probs["classifier"][:, k])
            shown += list(self.draws[kept[:rows]])
        Image.fromarray(clips.as_strips(np.stack(shown))).save(path)


def main(
    data,
    folder=str(ROOT / "saved_models/actions"),
    draws=1024,
    write=False,
    sheet=None,
):
    """Measure the cards; exit with 1 and one line for each number that has changed."""
    measures, off = Measures(folder, data, draws), []
    for name, remarks in REMARKS.items():
        measured = measures.figures(name)
        for what, figure in measured.items():
            print(f"{name}: {what}: {figure.text}", flush=True)
        if write:
            write_measured(measures.folder / name, {what: figure.text for what, figure in measured.items()}, remarks)
        off += [f"{name}: {line}" for line in differences(read_measured(measures.folder / name), measured)]
    if sheet:
        measures.sheet(sheet)
    conclude(off, measures.folder, {tuple(REMARKS): MAX_MEGABYTES})


if __name__ == "__main__":
    fire.Fire(main)
