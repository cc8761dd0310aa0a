"""The numbers in the card of saved_models/text: functions of `Evidence` that return {what: Figure}."""

import random

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from tfgradgen.models.text import load_text_model
from tools.cards.evidence import draws
from tools.cards.figures import Figure, files
from tools.train import photographs
from tools.train.captions import Nouns, caption, contrary
from tools.train.colours import COLOURS, measured, share

CLEAR = 0.5  # share of a region from which on its colour is taken as known
NUM_DRAWS = 2000
SEED = 41
TEXTS = ("a red thing on a white background", "a blue thing on a dark background", "a yellow thing on a green background")


class MeasuredImages:
    """Images with names, what is measured in them, and their embeddings.

    Attributes:
      name: The class of each; '' for none.
      found: `colours.measured`.
      embedding: [N, D].
    """

    def __init__(self, model, image, name):
        encode = model.module.signatures["encode_image"]
        self.name, self.found = name, measured(image)
        self.embedding = photographs.in_batches(lambda x: encode(image=tf.constant(x))["embedding"], image)

    def row(self, k):
        """Return what is measured in image `k`."""
        return {key: values[k] for key, values in self.found.items()}


def text_figures(evidence):
    """Return how well the text model tells which captions fit photographs that it never saw, and the generator's draws."""
    model = load_text_model(evidence.folder / "text")
    more = [name for name in photographs.class_names(evidence.others) if name not in evidence.names]
    other = photographs.load(evidence.others, "train", more, photographs.HELD_OUT)[1]
    name = [evidence.names[k] for k in evidence.labels] + [more[k] for k in other]
    taken = MeasuredImages(model, np.concatenate([evidence.images("val"), evidence.images("others")]), name)
    drawn = MeasuredImages(model, draws(evidence.generator, NUM_DRAWS, SEED), [""] * NUM_DRAWS)
    names = [*evidence.names, *more]
    embed = lambda texts: model.embed_fn(texts, texts)  # noqa: E731
    rows = sizes(model, evidence.folder / "text")
    rows |= retrieval(taken, embed, Nouns(names))
    classes = taken.embedding @ embed([f"a photo of a {each.replace('_', ' ')}" for each in names]).T
    own = np.array([names.index(each) for each in name])
    rows[f"name of the class among {len(names)}, of held-out photographs: first, within five"] = Figure(
        recall(classes, own), 0.02
    )
    for what, views in (("held-out photographs", taken), (f"{NUM_DRAWS} prior draws", drawn)):
        rows |= colours(what, views, embed) | swapped(what, views, embed, names)
    return rows | conditioned(model, drawn, embed)


def sizes(model, folder):
    """Return the cost, size and sha256 of the image encoder's file."""

    class One:
        module, sha256 = model.module, model.sha256
        fn = staticmethod(lambda image: model.module.signatures["encode_image"](image=image)["embedding"])

    return files(One, folder, (64, 64, 3))


def recall(scores, own):
    """Return the shares of the rows of `scores` [N, M] whose `own` column [N] is the first, and within the first five."""
    rank = (scores > scores[np.arange(len(own)), own][:, None]).sum(1)
    return f"{(rank < 1).mean():.3f}, {(rank < 5).mean():.3f}"


def retrieval(views, embed, nouns):
    """Return the recall of one caption of each image among those of all, and of the image among all."""
    words, count = random.Random(SEED), len(views.name)
    texts = [caption(views.name[k], views.row(k), nouns, words).text for k in range(count)]
    distinct = list(dict.fromkeys(texts))
    own = np.array([distinct.index(text) for text in texts])
    scores = views.embedding @ embed(distinct).T
    by_text = np.array([np.sum(scores[:, own[k]] > scores[k, own[k]]) for k in range(count)])
    back = f"{(by_text < 1).mean():.3f}, {(by_text < 5).mean():.3f}"
    what = f"{count} held-out photographs, whose {len(distinct)} captions are made of names and measured colours"
    return {
        f"recall@1, recall@5 of the caption, of {what}": Figure(recall(scores, own), 0.02),
        "recall@1, recall@5 of the photograph, given its caption, among these": Figure(back, 0.02),
    }


def colours(what, views, embed):
    """Return how often the colour of a region is named right, where one colour has more than half of it."""
    texts = {"subject": "a {} thing", "background": "a thing on a {} background"}
    found = {}
    for region, text in texts.items():
        shares = views.found[region]
        clear, scores = shares.max(1) > CLEAR, views.embedding @ embed([text.format(colour) for colour in COLOURS]).T
        right = scores[clear].argmax(1) == shares[clear].argmax(1)
        found[f"colour of the {region} named right among {len(COLOURS)}, {what}"] = Figure(
            f"{right.mean():.3f} of {clear.sum()}", (0.02, 2)
        )
    return found


def swapped(what, views, embed, names):
    """Return how often a caption with colours of subject and background is preferred to the same with them swapped."""
    words, nouns, pairs = random.Random(SEED), Nouns(names), []
    for k in range(len(views.name)):
        here = views.row(k)
        parts = next(
            (each for each in (caption("", here, nouns, words) for _ in range(6)) if each.subject and each.background), None
        )
        if parts is None or parts.subject == parts.background:
            continue
        other = parts._replace(subject=parts.background, background=parts.subject)
        if any(contrary(parts, here, names, nouns, words) == other for _ in range(20)):  # it is sure to be false
            pairs.append((k, parts.text, other.text))
    rows, true, false = zip(*pairs, strict=True)
    seen = views.embedding[list(rows)]
    right = (seen * embed(list(true))).sum(1) > (seen * embed(list(false))).sum(1)
    return {
        f"caption preferred to the one with its colours swapped, {what}": Figure(
            f"{right.mean():.3f} of {len(right)}", (0.02, 2)
        )
    }


def conditioned(model, views, embed):
    """Return the measured colours of exact draws of three texts: prior draws, weighted by p(text)."""
    rows = {}
    for text in TEXTS:
        _, subject, _, _, _, background, _ = text.split()
        prob = softmax(model.scale * views.embedding @ embed([text, *model.captions]).T, 1)[:, 0]
        parts = []
        for region, colour in (("subject", subject), ("background", background)):
            shares = share(views.found, region, colour)
            parts.append(f"{colour} {region} {np.average(shares, weights=prob):.2f} (all draws {shares.mean():.2f})")
        size = prob.sum() ** 2 / (prob**2).sum()
        rows[f'exact draws of "{text}"'] = Figure(
            f"{', '.join(parts)}; p {prob.mean():.4f}, effective number {size:.0f}", (*[0.05] * 4, 0.001, 5)
        )
    return rows
