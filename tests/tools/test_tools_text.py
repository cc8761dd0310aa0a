"""The training data of the text model: measured colours, true and false captions, batches; and the export."""

import random
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfgradgen.models.text import load_text_model
from tfgradgen.models.tokens import words_of as package_words_of
from tools.train.captions import MAX_TOKENS, PAD, Nouns, Parts, caption, contrary, encode, vocabulary, words_of
from tools.train.colours import COLOURS, colour_index, measured, share
from tools.train.text_data import BATCH, CONTRARIES, TextBatches, Views, windows

NAMES = ["goldfish", "ladybug", "sports_car", "water_tower"]
PIXELS = {
    (220, 20, 30): "red",
    (240, 130, 20): "orange",
    (240, 220, 30): "yellow",
    (40, 160, 50): "green",
    (30, 60, 210): "blue",
    (130, 40, 190): "purple",
    (240, 150, 180): "pink",
    (110, 70, 30): "brown",
    (10, 12, 11): "black",
    (250, 250, 246): "white",
    (128, 130, 127): "grey",
}


def painted(subject: tuple[int, ...], background: tuple[int, ...], count: int = 1) -> np.ndarray:
    """Return images [count, 64, 64, 3] of a disc on a plain background."""
    image = np.full((count, 64, 64, 3), background, "uint8")
    i = np.arange(64) - 31.5
    image[:, i[:, None] ** 2 + i[None] ** 2 < 20**2] = subject
    return image


def test_pixels_have_the_names_that_people_give_them() -> None:
    found = colour_index(np.array([list(PIXELS)], "uint8"))[0]
    assert [COLOURS[k] for k in found] == list(PIXELS.values())


def test_regions_are_the_middle_and_the_rim() -> None:
    found = measured(painted((220, 20, 30), (250, 250, 246)))
    assert share(found, "subject", "red")[0] == share(found, "background", "white")[0] == 1.0
    assert share(found, "background", "red")[0] == share(found, "subject", "dark")[0] == 0.0
    assert share(found, "background", "bright")[0] == 1.0
    small = measured(painted((220, 20, 30), (250, 250, 246))[:, ::2, ::2])
    assert abs(share(small, "subject", "red")[0] - 1.0) < 0.05


def row(subject: tuple[int, ...], background: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {key: values[0] for key, values in measured(painted(subject, background)).items()}


def test_captions_are_true_and_their_contraries_false() -> None:
    rng, nouns, here = random.Random(1), Nouns(NAMES), row((220, 20, 30), (30, 60, 210))
    for _ in range(300):
        parts = caption("ladybug", here, nouns, rng)
        assert parts.subject in ("", "red", "dark")
        assert parts.background in ("", "blue", "dark")
        wrong = contrary(parts, here, NAMES, nouns, rng)
        changed = [name for name, old, new in zip(parts._fields, parts, wrong, strict=True) if old != new]
        assert changed in (["noun"], ["subject"], ["background"], ["subject", "background"], [])
        if changed and changed != ["noun"]:
            assert (wrong.subject or "red", wrong.background or "blue") != ("red", "blue")
        if len(changed) == 2:
            assert (wrong.subject, wrong.background) == (parts.background, parts.subject)


def test_a_caption_reads_well() -> None:
    assert Parts("a {s} {n} on a {b} {p}", "insect", "orange", "blue", "sky").text == "an orange insect on a blue sky"


def test_the_vocabulary_has_all_words_of_captions_and_fits_them() -> None:
    rng, nouns, known = random.Random(2), Nouns(NAMES), vocabulary(NAMES)
    assert known[0] == PAD
    assert len({*known}) == len(known)
    numbers = {word: k for k, word in enumerate(known)}
    texts = [caption(rng.choice(NAMES), row((240, 220, 30), (40, 160, 50)), nouns, rng).text for _ in range(200)]
    tokens = encode(texts, numbers)
    assert tokens.shape == (200, MAX_TOKENS)
    assert [known[k] for k in tokens[0] if k] == words_of(texts[0]) == package_words_of(texts[0])
    assert {"ladybird", "insect", "road"} <= {*known}


def test_windows_keep_plain_images_and_cut_the_rim() -> None:
    plain = painted((9, 9, 9), (9, 9, 9), 3)
    assert (windows(plain, 1) == plain).all()
    disc = painted((220, 20, 30), (250, 250, 246), 20)
    assert share(measured(windows(disc, 1)), "background", "white").mean() < 0.95


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return folders of painted images, as `text_data.see` writes them."""
    rng, colours = np.random.default_rng(3), list(PIXELS)
    found = []
    for name in ("taken", "drawn"):
        picked = rng.choice(len(colours), (100, 2))
        folder = tmp_path / name
        folder.mkdir()
        image = np.concatenate([painted(colours[s], colours[b]) for s, b in picked])
        np.save(folder / "image.npy", image)
        np.save(folder / "name.npy", np.array([NAMES[k % 4] if name == "taken" else "" for k in range(100)]))
        np.save(folder / "late.npy", rng.normal(size=(100, 5, 5, 112)).astype("float16"))
        np.save(folder / "early.npy", rng.normal(size=(100, 40)).astype("float16"))
        found.append(folder)
    return found[0], found[1]


def test_batches_depend_on_seed_epoch_and_index_only(folders: tuple[Path, Path]) -> None:
    make = lambda seed: TextBatches(Views(folders[0]), Views(folders[1]), NAMES, 5, seed)  # noqa: E731
    ((image, late, early, tokens),) = make(1)[2]
    assert image.shape == (BATCH, 64, 64, 3)
    assert (late.shape[0], early.shape[0], tokens.shape) == (BATCH, BATCH, (BATCH * (1 + CONTRARIES), MAX_TOKENS))
    again, other = make(1)[2][0], make(2)[2][0]
    assert all((one == two).all() for one, two in zip((image, late, early, tokens), again, strict=True))
    assert (tokens != other[3]).any()


@pytest.mark.slow
def test_the_export_is_a_text_model_of_the_package(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """The loss has a gradient, and the exported model, in 16 bits, gives the cosines of the network."""
    from tools.train.text_network import TextNetwork
    from tools.train.train_text import Lesson, publish

    known = vocabulary(NAMES)
    network = TextNetwork(len(known))
    batch = TextBatches(Views(folders[0]), Views(folders[1]), NAMES, 5, 1)[0][0]
    with tf.GradientTape() as tape:
        loss = Lesson(network)(tuple(map(tf.constant, batch)), training=True)
    (slope,) = tape.gradient(loss, [network.of_word])
    assert np.isfinite(loss)
    assert float(tf.reduce_max(tf.abs(slope))) > 0
    network.save_weights(tmp_path / "final.weights.h5")
    publish(network, NAMES, tmp_path, tmp_path / "text", None)
    model = load_text_model(tmp_path / "text")
    texts, numbers = ["a red goldfish on a blue sky", "a dark image"], {word: k for k, word in enumerate(known)}
    np.testing.assert_allclose(model.embed_fn(texts, texts), network.embed_text(encode(texts, numbers)), atol=5e-3)
    image = painted((220, 20, 30), (30, 60, 210)).astype("float32") / 127.5 - 1
    seen = model.module.signatures["encode_image"](image=tf.constant(image))["embedding"]
    np.testing.assert_allclose(seen, network.embed_image(image), atol=5e-3)
    assert model.classifier("a red goldfish").num_classes == 2
    assert len(model.captions) == 64
