"""Trains and exports saved_models/discriminator, p(natural | image); resumes after an interruption.

    python -m tools.train.train_discriminator --data=PHOTOGRAPHS --others=PHOTOGRAPHS --work=DIR
        [--generator=saved_models/generator]

It learns to distinguish photographs, of the classes and of other things, from prior draws of the generator. For PHOTOGRAPHS see
train_classifier.py. Needs TensorFlow for the generator's draws.
"""

from pathlib import Path

import numpy as np

from tfgradgen.core.checks import check_int
from tools.command import run
from tools.train import photographs
from tools.train.calibration import fit
from tools.train.train_classifier import publish, train, trained

LABELS = ({"name": "generated"}, {"name": "natural"})
TRAINING_SEED, CALIBRATION_SEED = 21, 22  # seeds of the draws


def beside(draws, images):
    """Join draws and photographs to one labelled set."""
    return np.concatenate([draws, images]), np.repeat([0, 1], [len(draws), len(images)])


def main(
    data,
    others,
    work,
    generator="saved_models/generator",
    epochs=6,
    precision="mixed_bfloat16",
    out=None,
    licence=None,
):
    """Train for `epochs` of 20,000 views in total, calibrate on held-out photographs and draws, and export to `out`."""
    from tfgradgen.models.generator import load_generator
    from tools.cards.evidence import draws

    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    names = photographs.class_names(data)
    other_names = [name for name in photographs.class_names(others) if name not in names]
    load = lambda split, part: np.concatenate(  # noqa: E731
        [photographs.load(data, split, names)[0], photographs.load(others, "train", other_names, part)[0]]
    )
    network = load_generator(generator)
    natural = load("val", photographs.HELD_OUT)
    held_out = beside(draws(network, len(natural), CALIBRATION_SEED), natural)
    if check_int("epochs", epochs, 0):
        natural = load("train", photographs.TRAINING)
        train(
            [beside(draws(network, len(natural), TRAINING_SEED), natural)],
            held_out,
            work,
            epochs,
            "discriminator",
            0,
            precision,
        )
    model = trained("discriminator", work, len(LABELS))
    model.temperature.assign(fit(photographs.in_batches(model.opinion, held_out[0]), held_out[1])[0])
    publish(model, list(LABELS), work, "discriminator", out, licence)


if __name__ == "__main__":
    run(main)
