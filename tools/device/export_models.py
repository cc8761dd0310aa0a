"""Exports what `train_models.sh` brought back, as SavedModels with their cards. Needs TensorFlow.

    python -m tools.device.export_models --results=DIR --teacher=MODEL [--out=saved_models]

DIR holds `best.npz`, `best.json` and `student.npz`. A model is left out if its files are
missing. MODEL is the teacher that was packed; its labels are those of both models.
`tools.cards.check_models` measures the numbers of the cards.
"""

import json
from pathlib import Path

import fire
import keras

from tools.device.packed import load_weights
from tools.train import photographs
from tools.train.consensus_network import Student
from tools.train.consensus_stages import FROZEN_BLOCKS, VARIANT, publish_student, softening, softening_text
from tools.train.efficientnet_lite import LARGE
from tools.train.generator_network import TRAINING_SHARPNESS
from tools.train.train_generator import empty_generator, publish

STUDENT_SIZE = 96
NETWORKS = {"squeeze": "SqueezeNet", "lite": "EfficientNet-Lite1 (randomly mixed maps)"}

GENERATOR = """`python -m tools.device.train_generator` on the photographs of each class (recipe `{recipe}`): frozen features of
{features}, a gain of {high_pass:g} for the high-pass part of the pixels, {guidance}, batches of {batch_size}, s = {s}. The
checkpoint with the lowest FID of its averaged weights in the judge's features is shipped: that after {images:,} images."""

CLASSIFIER = """EfficientNet-Lite1 (Tan and Le 2019; Apache-2.0) with an input of {size} pixels, bicubic, and a head with one
hidden layer on the spatial means of three of its feature maps, trained by `python -m tools.device.train_student`. It began with
ImageNet weights; all but its first {frozen} blocks were fine-tuned. It learned from labelled draws of the generator: the target
of a draw is p(class) by a classifier of photographs times p(class) by Lite1's own 1000 classes at 112 pixels, and the rest is
"other". Photographs of the classes and of other things, with their labels, were shown, too. Temperature and the bias of "other"
are fitted to held-out draws. {softened} Kernels of at least {large:,} weights are stored in 16 bits, which changes the logits
by less than 0.01."""


def recipe_text(record):
    """Return what trained a generator, for its card, from `best.json`."""
    settings = record["settings"]
    features = " and ".join(NETWORKS[part] for part in settings["features"])
    weight = settings["guidance"]
    guidance = f"guidance by Lite1's log p(class) with weight {weight:g}" if weight else "no guidance"
    values = {key: record[key] for key in ("recipe", "batch_size", "images")}
    return GENERATOR.format(
        features=features, high_pass=settings["high_pass"], guidance=guidance, s=TRAINING_SHARPNESS, **values
    )


def export_generator(results, names, out, licence=None, num_batches=64):
    """Write the generator in `results` to the folder `out`."""
    record = json.loads((results / "best.json").read_text(encoding="utf-8"))
    generator = empty_generator(len(names), record["widths"])
    load_weights(results / "best.npz", generator.variables)
    publish(generator, names, recipe_text(record), out, licence, num_batches)


def export_student(results, labels, out, licence=None):
    """Write the classifier in `results` to the folder `out`; `labels` are those of model.json."""
    student = Student(len(labels), VARIANT, STUDENT_SIZE, weight_dtype="float16")
    student(keras.Input((photographs.SIZE, photographs.SIZE, 3)))
    load_weights(results / "student.npz", student.weights)
    softened = softening_text(softening([label["name"] for label in labels]))
    built = CLASSIFIER.format(size=STUDENT_SIZE, frozen=FROZEN_BLOCKS, large=LARGE, softened=softened)
    publish_student(student, labels, built, out, licence)


def main(results, teacher, out="saved_models", licence=None):
    """Write the generator and the classifier to the folder `out`."""
    results, out = Path(results), Path(out)
    labels = json.loads((Path(teacher) / "model.json").read_text(encoding="utf-8"))["labels"]
    if (results / "best.npz").exists():
        export_generator(
            results, [label["name"] for label in labels if not label.get("background")], out / "generator", licence
        )
    else:
        print(f"{results}/best.npz: no generator found, so none is exported")
    if (results / "student.npz").exists():
        export_student(results, labels, out / "classifier", licence)
    else:
        print(f"{results}/student.npz: no classifier found, so none is exported")


if __name__ == "__main__":
    fire.Fire(main)
