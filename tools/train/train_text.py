"""Trains and exports saved_models/text, which tells how well a text fits an image; resumes after an interruption.

    python -m tools.train.train_text --data=PHOTOGRAPHS --others=PHOTOGRAPHS --work=DIR [--generator=MODEL] [--classifier=MODEL]

PHOTOGRAPHS are as for train_classifier.py. Each image gets captions made of its class name, the words of its synset, and the
measured colours of its centre and its rim (colours.py, captions.py). A quarter of the images are the generator's draws, whose
colours are measured too, and whose class is named where the classifier is sure of it. The loss is that of CLIP (Radford et al.
2021), InfoNCE in both directions, with captions that are false by one word or by swapped colours among the others. DIR keeps
checkpoint, log and weights. `--epochs=0` only measures and exports. Needs TensorFlow and the extra `train`.
"""

from pathlib import Path

import fire
import keras
import numpy as np
from keras import ops

from tools.train.captions import MAX_TOKENS, vocabulary
from tools.train.lessons import LossModel
from tools.train.photographs import to_range
from tools.train.text_data import BATCH, CAPTIONS, TextBatches, drawn, every_name, taken
from tools.train.text_network import IMAGE_SIZE, TextNetwork

STEPS, RATE, SEED = 50, 1.5e-3, 5


class Lesson(LossModel):
    """A model for `fit` on `TextBatches`: its output is InfoNCE from images to texts and from texts to images."""

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.built = True

    def call(self, data, training=False):
        image, late, early, tokens = data
        image = ops.reshape(to_range(image), (-1, IMAGE_SIZE, IMAGE_SIZE, 3))
        seen = self.network.embed_maps(image, late, early)
        logits = self.network.scale * ops.matmul(seen, ops.transpose(self.network.embed_text(tokens)))
        own = ops.eye(BATCH)
        loss = 0.0
        for k in range(CAPTIONS):
            of_text = logits[:, k * BATCH : (k + 1) * BATCH]
            # The other true captions of an image are no alternatives.
            hidden = ops.concatenate([own * (j != k and j < CAPTIONS) for j in range(logits.shape[1] // BATCH)], 1)
            right = ops.sum(of_text * own, 1)
            loss += ops.mean(ops.logsumexp(logits - 1e9 * hidden, axis=1) - right)
            loss += ops.mean(ops.logsumexp(of_text, axis=0) - right)
        return loss / (2 * CAPTIONS)


def train(batches, network, work, epochs):
    """Train for `epochs` of STEPS batches in total, resuming from `work`, and write the weights there."""
    lesson = Lesson(network)
    batches.num_seen_fn = lambda: int(lesson.optimizer.iterations.numpy())
    steps = epochs * STEPS
    warmup = min(200, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=RATE, warmup_steps=warmup)
    lesson.compile(
        optimizer=keras.optimizers.AdamW(
            rate, weight_decay=0.02, beta_2=0.99, global_clipnorm=3.0, use_ema=True, ema_momentum=0.99
        ),
        jit_compile=False,
    )
    lesson.optimizer.build(lesson.trainable_variables)
    lesson.fit(
        batches,
        epochs=epochs,
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(work / "backup", double_checkpoint=True, delete_checkpoint=False),
            keras.callbacks.CSVLogger(work / "log.csv", append=True),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        ],
    )
    network.save_weights(work / "final.weights.h5")


def main(
    data,
    others,
    work,
    generator="saved_models/generator",
    classifier="saved_models/classifier",
    epochs=24,
    out=None,
    licence=None,
):
    """Train for `epochs` of 50 batches of 128 images in total, and export to `out`."""
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    names = every_name(data, others)
    network = TextNetwork(len(vocabulary(names)), MAX_TOKENS)
    network.begin()
    if epochs:
        photos, own = taken(network, data, others, work / "taken"), drawn(network, generator, classifier, work / "drawn")
        named = np.mean([bool(name) for name in own.name])
        print(f"{len(photos)} photographs; {len(own)} draws, {named:.3f} with a class", flush=True)
        train(TextBatches(photos, own, names, STEPS, SEED), network, work, epochs)


if __name__ == "__main__":
    fire.Fire(main)
