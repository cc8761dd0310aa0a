"""Measures the numbers in the cards of the models of clips, saved_models/actions/, and fails if one has changed.

    python -m tools.cards.check_clips --data=CLIPS [--folder=saved_models/actions] [--draws=1024] [--write] [--sheet=FILE]

CLIPS is a folder or .tar of film strips (see tools/train/clips.py). `--write` first writes the numbers into the cards;
`--sheet` writes an image with an exact posterior draw a row, four rows an action.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.special import log_softmax

from tfgradgen.models.loading.metadata import fingerprint
from tools.cards.check_models import ROOT, differences
from tools.cards.figures import Figure, agreement, by_class, calibration, conclude, files
from tools.command import run
from tools.train import clips
from tools.train.calibration import cross_fitted, log_loss
from tools.train.export import read_measured, write_measured

SEED, BATCH = 31, 32
EVERY = 3  # frames between the windows of held-out strips
HELD_OUT = """The ninth performer took part in no training. The windows overlap and come from four recordings and their mirror
images, so they say little about the accuracy on other people. The numbers of steps were reduced after it was known.
The logits are as they were trained, without a fitted temperature. Every window is named rightly, so the calibration error is
how far p falls short of 1, and a finite temperature cannot remove it. A temperature and a bias of "other" were fitted to one
half of the windows and of spoiled windows, which show no action. They raised the log loss of the other half, so they were left
out."""
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
        tf.random.set_seed(SEED)
        mixed = self.pixels[np.random.default_rng(SEED).permutation(len(self.pixels))]  # neighbours are of two recordings
        self.spoiled = in_batches(lambda x: clips.as_pixels(clips.spoiled(clips.as_clip(x))), mixed)
        z = np.random.default_rng(SEED).standard_normal((draws, self.latent_dim)).astype("float32")
        self.draws = in_batches(lambda z: clips.as_pixels(self.models["generator"].fn(z)), z)
        self.probs = {name: np.exp(self.log_probs(name, self.draws)) for name in ("classifier", "judge")}

    @property
    def latent_dim(self):
        return self.models["generator"].module.signatures["serving_default"].inputs[0].shape[1]

    def log_probs(self, name, pixels):
        """Return log p(class) [N, K] of uint8 clips."""
        return in_batches(lambda x: tf.nn.log_softmax(self.models[name].fn(clips.as_clip(x))), pixels)

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
        log_probs, other = self.log_probs(name, self.pixels), num
        right = log_probs.argmax(1) == self.labels
        shares = [right[self.labels == c].mean() for c in range(num)]
        what = f"top-1 accuracy on {len(right)} windows of the 8 clips of the held-out performer"
        return rows | {
            what: Figure(f"{right.mean():.3f}", 0.01),
            "accuracy there by action": Figure(by_class(clips.ACTIONS, shares), 0.03),
            **calibration(log_probs, self.labels, "there"),
            **self.refitted(log_probs, self.log_probs(name, self.spoiled), other),
        }

    def refitted(self, shown, spoiled, other):
        """Return what a temperature and a bias of "other" would gain, fitted to the windows and to clips that show no action.

        Args:
          shown: [N, K], log p(class) of the windows.
          spoiled: [N, K], that of spoiled ones.
          other: Number of the class "other".
        """
        labels = np.concatenate([self.labels, np.full(len(spoiled), other)])
        both = np.concatenate([shown, spoiled])
        fitted = log_softmax(cross_fitted(both, labels, has_other=True), axis=1)
        calls = np.mean(spoiled.argmax(1) == other)
        text = f"{log_loss(both, labels):.3f} nats; calibrated, each half on the other half, {log_loss(fitted, labels):.3f}"
        return {
            f'share of {len(spoiled)} spoiled windows that it calls "other"': Figure(f"{calls:.3f}", 0.03),
            "log loss on the windows and the spoiled ones": Figure(text, (0.02, 0.1)),
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
    run(main)
