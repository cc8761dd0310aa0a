"""The shipped text model works: texts that no label covers change the measured colours of exact draws.

Colours are measured by rules (`tools.train.colours`), without a network. Rejection from a fixed pool of prior
draws gives exact draws from the pool; a permutation test decides whether their colours differ from the pool's beyond chance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from tfgradgen import UserError, load_generator
from tfgradgen.media.image import to_uint8
from tfgradgen.models.text import TextModel, load_text_model
from tfgradgen.models.tokens import words_of
from tools.train.colours import measured, share

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shipped_cache")]

NUM_POOL, BATCH = 2000, 50
PERMUTATIONS = 4000
LEVEL = 0.002  # of one test; in one of 80 runs, one of the six tests of an unguided text is below it by chance
TEXTS = {  # text -> words of the subject and of the background that are measured
    "a red thing on a white background": ("red", "white"),
    "a blue thing on a dark background": ("blue", "dark"),
    "a yellow thing on a green background": ("yellow", "green"),
}


class Pool(NamedTuple):
    """Prior draws.

    Attributes:
      image: Images in [-1, 1].
      found: What is measured in the images.
      embedding: Embeddings [N, dim] of length 1.
    """

    image: np.ndarray
    found: dict[str, np.ndarray]
    embedding: np.ndarray


@pytest.fixture(scope="module")
def model() -> TextModel:
    return load_text_model()


@pytest.fixture(scope="module")
def pool(model: TextModel) -> Pool:
    generator, encode = load_generator(), model.module.signatures["encode_image"]
    draw = tf.function(lambda z: generator(z), autograph=False)
    z = tf.random.stateless_normal([NUM_POOL, generator.latent_dim], [22, 7])
    image = np.concatenate([draw(z[k : k + BATCH]).numpy() for k in range(0, NUM_POOL, BATCH)])
    parts = [encode(image=tf.constant(image[k : k + BATCH]))["embedding"].numpy() for k in range(0, NUM_POOL, BATCH)]
    return Pool(image, measured(to_uint8(image)), np.concatenate(parts))


def prob_of(text: str, captions: Sequence[str], pool: Pool, model: TextModel) -> np.ndarray:
    """Return p(text | image) [N] of the pool by its formula, so that each image is encoded once."""
    scores = model.scale * pool.embedding @ model.embed_fn([text, *captions], [text] * (1 + len(captions))).T
    return np.asarray(softmax(scores, 1)[:, 0])


@pytest.fixture(scope="module")
def probs(pool: Pool, model: TextModel) -> dict[str, np.ndarray]:
    return {text: prob_of(text, model.captions, pool, model) for text in TEXTS}


def test_the_classifier_of_a_text_has_this_probability(pool: Pool, model: TextModel, probs: dict[str, np.ndarray]) -> None:
    for text, prob in probs.items():
        found = model.classifier(text).log_probs(tf.constant(pool.image[:BATCH])).numpy()[:, 1]
        np.testing.assert_allclose(found, np.log(prob[:BATCH]), atol=1e-2)


def accepted(prob: np.ndarray, seed: int) -> np.ndarray:
    """Return the indices of exact draws from the pool, by rejection with the largest probability in it as the bound."""
    return np.flatnonzero(np.random.default_rng(seed).random(len(prob)) * prob.max() < prob)


def p_value(values: np.ndarray, chosen: np.ndarray, seed: int) -> float:
    """Return the share of random subsets of the same size whose mean is at least that of the chosen rows."""
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.choice(len(values), len(chosen), replace=False)].mean() for _ in range(PERMUTATIONS)])
    return float((1 + np.sum(means >= values[chosen].mean())) / (1 + PERMUTATIONS))


def p_values(pool: Pool, prob: np.ndarray, words: tuple[str, str], seed: int) -> tuple[float, float]:
    chosen = accepted(prob, seed)
    assert len(chosen) >= 8, "too few draws for a test"
    subject, background = (
        p_value(share(pool.found, region, word), chosen, seed)
        for region, word in zip(("subject", "background"), words, strict=True)
    )
    return subject, background


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_moves_the_measured_colours(text: str, pool: Pool, probs: dict[str, np.ndarray]) -> None:
    assert max(p_values(pool, probs[text], TEXTS[text], 1)) < LEVEL


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_other_images_does_not(text: str, pool: Pool, probs: dict[str, np.ndarray]) -> None:
    """The control: the same probabilities, each assigned to another image."""
    shuffled = np.random.default_rng(5).permutation(probs[text])
    assert min(p_values(pool, shuffled, TEXTS[text], 2)) > LEVEL


def test_another_text_does_not(pool: Pool, probs: dict[str, np.ndarray]) -> None:
    """A text about other colours does not change these either."""
    texts = list(TEXTS)
    for text, other in zip(texts, texts[1:] + texts[:1], strict=True):
        assert max(p_values(pool, probs[other], TEXTS[text], 3)) > LEVEL


def test_colours_belong_to_subject_and_background(pool: Pool, model: TextModel) -> None:
    """With the colours swapped, the text prefers other images: those with more of the subject's colour in the middle."""
    red, blue = "a red thing on a blue background", "a blue thing on a red background"
    prob = prob_of(red, [blue], pool, model)
    inside = share(pool.found, "subject", "red") - share(pool.found, "background", "red")
    inside += share(pool.found, "background", "blue") - share(pool.found, "subject", "blue")
    assert p_value(inside, np.argsort(-prob)[:100], 4) < LEVEL
    assert p_value(-inside, np.argsort(-prob)[:100], 4) > LEVEL


def test_unknown_words_are_refused_with_the_nearest(model: TextModel) -> None:
    with pytest.raises(UserError, match="got ladybgu; did you mean ladybug"):
        model.classifier("a red ladybgu")
    assert all(len(words_of(caption)) > 0 for caption in model.captions)
    for text in ("a yellow bus on a dark road", "a gray photograph of a goldfish in front of a bright background"):
        assert model.classifier(text).captions
