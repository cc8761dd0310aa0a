"""Trains the classifier of saved_models/classifier and exports it, resuming where an earlier run stopped:

    python tools/train_classifier.py --data=FOLDER --work=DIR [--classes=a,b] [--labels=labels.json]

FOLDER holds `train/<name>/*.JPEG` and `val/<name>/*.JPEG`; DIR keeps the checkpoint and the log. labels.json is a list of
{name, wnid, synset}. `KERAS_BACKEND=jax` trains without TensorFlow; run again with `--epochs=0` where it is, to export.
"""

import json
from pathlib import Path

import fire
import keras
import numpy as np
import photographs
from keras import ops
from networks import Classifier
from photographs import crop_matrix, cut_out, jitter_colour, resample, to_range, uniform
from quality import expected_calibration_error


class Augment(keras.layers.Layer):
    """uint8 photographs -> [-1, 1]; in training also crops, colour, blur, noise and cut-outs.

    Blur and noise are there because the classifier is to judge, and to give gradients on, pictures that are softer and
    rougher than photographs.
    """

    def __init__(self, seed=77, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, image, training=False):
        x = to_range(image)
        if not training:
            return x
        size = ops.shape(image)[0]
        u = uniform(self.seed_generator, (size, 14))
        x = jitter_colour(x, u[:, 0:3], brightness=0.4, saturation=0.4, contrast=0.35)
        zoom = 0.65 + 0.4 * u[:, 3:4]
        rows = crop_matrix(64, 64, zoom * ops.exp((u[:, 4:5] - 0.5) * 0.3), (u[:, 6:7] - 0.5) * 0.4)
        columns = crop_matrix(64, 64, zoom, (u[:, 7:8] - 0.5) * 0.4, ops.where(u[:, 5:6] > 0.5, 1.0, -1.0))
        x = resample(x, rows, columns)
        soft = ops.average_pool(x, 3, 1, padding="same")
        soft = ops.where(u[:, 8:9, None, None] > 0.7, ops.average_pool(soft, 3, 1, padding="same"), soft)
        x = x + (soft - x) * (u[:, 9:10] * ops.cast(u[:, 10:11] > 0.5, "float32"))[:, :, None, None]
        noise = keras.random.normal(ops.shape(x), seed=self.seed_generator)
        level = 0.3 * ops.square(u[:, 11:12]) * ops.cast(u[:, 10:11] < 0.6, "float32")
        x = x + level[:, :, None, None] * noise
        return ops.clip(cut_out(x, u[:, 12:14], half=10.0), -1.0, 1.0)


def log_loss(logits, labels, temperature):
    scaled = logits / temperature
    scaled = scaled - scaled.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]))


def fit_temperature(logits, labels):
    """The temperature of least log loss (Guo et al. 2017), by a fine grid."""
    grid = np.exp(np.linspace(-1.5, 1.5, 601))
    return float(grid[np.argmin([log_loss(logits, labels, t) for t in grid])])


def measure(logits, labels):
    """Held-out figures; the temperature of each half is fitted on the other, so that calibration is not flattered."""
    halves = [np.arange(len(labels)) % 2 == k for k in (0, 1)]
    probs = np.zeros_like(logits)
    for half, other in zip(halves, halves[::-1], strict=True):
        scaled = logits[half] / fit_temperature(logits[other], labels[other])
        exp = np.exp(scaled - scaled.max(1, keepdims=True))
        probs[half] = exp / exp.sum(1, keepdims=True)
    correct = probs.argmax(1) == labels
    return {
        "accuracy": float(correct.mean()),
        "log_loss": float(-np.log(probs[np.arange(len(labels)), labels]).mean()),
        "ece": expected_calibration_error(probs, labels),
        "per_class": [float(correct[labels == k].mean()) for k in np.unique(labels)],
    }


def train(network, images, labels, held_out, work, epochs, batch_size, seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([Augment(), network])
    model.build((None, 64, 64, 3))
    steps = epochs * -(-len(images) // batch_size)
    warmup = min(200, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=3e-3, warmup_steps=warmup)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            rate, weight_decay=0.05, beta_2=0.99, global_clipnorm=3.0, use_ema=True, ema_momentum=0.995
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() == "jax",
    )
    model.optimizer.build(model.trainable_variables)
    model.fit(
        images,
        labels,
        batch_size=batch_size,
        epochs=epochs,
        verbose=2,
        validation_data=held_out,
        callbacks=[
            keras.callbacks.BackupAndRestore(work / "backup", delete_checkpoint=False),
            keras.callbacks.CSVLogger(work / "log.csv", append=True),
        ],
    )
    # fit left the EMA weights in the model; batch normalization is to have their statistics.
    rng = np.random.default_rng(seed)
    for _ in range(120):
        model(images[rng.integers(0, len(images), 128)], training=True)
    network.save_weights(work / "final.weights.h5")


def main(
    data,
    work,
    classes=None,
    labels=None,
    epochs=30,
    batch_size=64,
    precision="mixed_bfloat16",
    seed=0,
    out="saved_models/classifier",
):
    """Trains for `epochs` in all, fits the temperature on the held-out photographs, and exports to `out`."""
    names = photographs.as_names(classes) or photographs.class_names(data)
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    held_out = photographs.load(data, "val", names)
    if epochs:
        images, targets = photographs.load(data, "train", names)
        network = Classifier(len(names), dtype=precision)
        network(np.zeros((2, 64, 64, 3), "float32"))
        train(network, images, targets, held_out, work, epochs, batch_size, seed)
    if keras.backend.backend() != "tensorflow":
        print(f"trained; weights in {work}/final.weights.h5; export them where TensorFlow is, with --epochs=0")
        return
    network = Classifier(len(names))
    network(np.zeros((2, 64, 64, 3), "float32"))
    network.load_weights(work / "final.weights.h5")
    logits = np.asarray(network(to_range(held_out[0])))
    figures = measure(logits, held_out[1])
    network.temperature.assign(fit_temperature(logits, held_out[1]))
    publish(network, names, labels, figures, out, len(held_out[0]))


def publish(network, names, labels, figures, out, num_held_out):
    from export import export, mega_flop, megabytes, write_card

    known = {entry["name"]: entry for entry in json.loads(Path(labels).read_text())} if labels else {}
    entries = [
        {key: known.get(name, {}).get(key, name if key == "name" else "") for key in ("name", "wnid", "synset")}
        for name in names
    ]
    folder = export(
        network,
        (64, 64, 3),
        out,
        {
            "image_range": [-1, 1],
            "image_size": [64, 64],
            "output": "logits",
            "labels": entries,
        },
    )
    per_class = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, figures["per_class"], strict=True))
    write_card(
        folder,
        "Classifier",
        {
            "signature": f"callable, and `serving_default`: `image` float32 [B, 64, 64, 3] -> logits float32 [B, {len(names)}]",
            "range": "[-1, 1], RGB",
            "classes": ", ".join(names),
            "cost": f"{mega_flop(network, (64, 64, 3)):.0f} MFLOP a picture (a multiply-add counts as two), "
            f"{network.count_params() / 1e6:.2f} M parameters, {megabytes(folder):.1f} MB",
        },
        {
            f"top-1 accuracy on {num_held_out} held-out photographs": f"{figures['accuracy']:.3f}",
            "log loss there": f"{figures['log_loss']:.3f} nats",
            "expected calibration error there, 15 bins": f"{figures['ece']:.3f}",
            "accuracy by class": per_class,
            "temperature in the graph": f"{float(network.temperature.numpy()):.3f}",
        },
        "A residual network in Keras 3 (`tools/networks.py`), trained on the 500 photographs of each class by\n"
        "`python tools/train_classifier.py`, with crop, colour, blur, noise and cut-out augmentation, AdamW, EMA 0.995.",
        "The temperature is fitted on the held-out photographs; for the figures above, that of each half on the other.",
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    fire.Fire(main)
