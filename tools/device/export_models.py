"""Exports what `train_models.sh` brought back, as SavedModels with their cards. Needs TensorFlow.

    python -m tools.device.export_models --results=DIR --teacher=MODEL --data=PHOTOS --others=OTHER_PHOTOS [--out=saved_models]

DIR holds `best.npz`, `best.json`, `log.csv` and `student.npz`. `check_models.py` measures the numbers of the cards.
"""

import json
from pathlib import Path

import fire
import keras

from tools.device.packed import load_weights
from tools.train.consensus_network import save
from tools.train.consensus_stages import Studio, write_model
from tools.train.generator_network import SHIPPED_SHARPNESS, Generator
from tools.train.train_generator import publish

STAGE = "tune"


def main(results, teacher, data, others, work, out="saved_models", licence=None):
    """Write the generator and the classifier to `out`; `work` is a folder for the weights as the training tools keep them."""
    results, work, out = Path(results), Path(work), Path(out)
    studio = Studio(work, data, others, teacher)
    record = json.loads((results / "best.json").read_text(encoding="utf-8"))
    generator = Generator(len(studio.names), SHIPPED_SHARPNESS, widths=record["widths"])
    generator(keras.Input((generator.latent_dim,)))
    load_weights(results / "best.npz", generator.variables)
    publish(generator, record, studio.names, out / "generator", licence)
    student = studio.empty_student()
    load_weights(results / "student.npz", student.weights)
    save(student, studio.weights(STAGE))
    write_model(studio, STAGE, out / "classifier", licence)


if __name__ == "__main__":
    fire.Fire(main)
