"""The training data that the tools show their networks: photographs, labels and augmentation."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.tooling import tool


def save_photographs(folder: Path, num: int = 7) -> dict[str, np.ndarray]:
    """Save `num` tiny images of two classes, as a folder and as a .tar next to it."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("cat", "ant"):
        (folder / "photos/train" / name).mkdir(parents=True)
        arrays[name] = rng.integers(0, 255, (num, 64, 64, 3)).astype("uint8")
        for k, array in enumerate(arrays[name]):
            Image.fromarray(array).save(folder / f"photos/train/{name}/{k}.png")
    with tarfile.open(folder / "photos.tar", "w") as archive:
        archive.add(folder / "photos", "photos")
    return arrays


def test_photographs_come_from_a_folder_or_a_tar(tmp_path: Path) -> None:
    photographs, arrays = tool("photographs"), save_photographs(tmp_path)
    for data in (tmp_path / "photos", tmp_path / "photos.tar"):
        assert photographs.class_names(data) == ["ant", "cat"]
        assert photographs.class_names(data, [{"name": "cat"}, {"name": "dog"}, {"name": "ant"}]) == ["cat", "ant"]
        images, labels = photographs.load(data, "train", ["cat", "ant"], photographs.HELD_OUT)
        np.testing.assert_array_equal(labels, [0] * 5 + [1] * 5)
        np.testing.assert_array_equal(images, np.concatenate([arrays["cat"][-5:], arrays["ant"][-5:]]))
        assert len(photographs.load(data, "train", ["cat"], photographs.TRAINING)[0]) == 2
    with pytest.raises(SystemExit, match="got none"):
        photographs.load(tmp_path / "photos", "val", ["cat"])
    with pytest.raises(SystemExit, match="expected a folder or"):
        photographs.class_names(tmp_path / "photos/train")


def test_batches_are_balanced_labelled_by_kind_and_repeatable() -> None:
    data = tool("classifier_data")
    photographs = np.arange(40, dtype="uint8")[:, None, None, None] * np.ones((1, 64, 64, 3), "uint8")
    sets = [(photographs, np.repeat(np.arange(4), 10)), (photographs + 100, np.repeat(np.arange(8), 5))]
    batches = data.Batches(sets, 3, seed=0)
    ((images, labels),) = batches[1]
    shown = images[:, 0, 0, 0]
    classes, others, distorted = batches.counts
    assert classes + others + distorted == len(labels) == data.BATCH_SIZE
    np.testing.assert_array_equal(labels[:classes], shown[:classes] // 10)
    np.testing.assert_array_equal(labels[classes : classes + others], 4 + (shown[classes : classes + others] - 100) // 5)
    assert set(labels[-distorted:]) == {12}
    assert shown[-distorted:].max() < 40, "distorted are photographs of the classes"
    assert np.ptp(np.bincount(labels[:classes])) <= 1
    np.testing.assert_array_equal(images, data.Batches(sets, 3, seed=0)[1][0][0])
    assert (images != batches[2][0][0]).any()
    assert data.Batches(sets[:1], 3, seed=0).counts == (data.BATCH_SIZE, 0, 0)


def test_distorted_images_keep_colours_and_lose_shape() -> None:
    keras = tool("keras")
    image = tf.random.stateless_uniform([6, 64, 64, 3], [0, 1], -1, 1)
    blobs, shuffled = tf.split(tool("classifier_data").distort(image, keras.random.SeedGenerator(0)), 2)
    assert float(tf.reduce_max(tf.abs(blobs[:, 1:] - blobs[:, :-1]))) < 0.1, "nothing sharp is left"
    np.testing.assert_allclose(np.sort(tf.reshape(shuffled, [3, -1])), np.sort(tf.reshape(image[3:], [3, -1])), atol=1e-6)
    assert np.abs(shuffled - image[3:]).max() > 0.5


def test_blending_weighs_labels_as_it_weighs_pixels() -> None:
    data, keras = tool("classifier_data"), tool("keras")
    image = tf.reshape(tf.range(data.BATCH_SIZE, dtype=tf.float32), [-1, 1, 1, 1]) * tf.ones([1, 64, 64, 3])
    for mix in (data.blend, data.paste, data.leave):
        mixed, weight = mix(image, keras.random.SeedGenerator(1))
        mean = weight * image[:, 0, 0, 0] + (1 - weight) * tf.roll(image, -1, 0)[:, 0, 0, 0]
        np.testing.assert_allclose(tf.reduce_mean(mixed, [1, 2, 3]), mean, rtol=1e-4, atol=1e-4)
        assert (float(tf.reduce_min(weight)) < 1) == (mix is not data.leave)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "judge", "discriminator"])
def test_a_lesson_lowers_its_loss(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deep ones learn eagerly, because tracing takes most of their time; the others are traced, as outside of tests."""
    data, keras = tool("classifier_data"), tool("keras")
    monkeypatch.setattr(data, "BATCH_SIZE", 16)
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shade = np.repeat([40, 215], 8)[:, None, None, None]
    images = np.clip(shade + rng.integers(-30, 30, (16, 64, 64, 3)), 0, 255).astype("uint8")
    network = tool("classifier_networks").NETWORKS[role](2)
    lesson = data.Lesson(network, role, 0)
    lesson.compile(optimizer=keras.optimizers.Adam(1e-3), run_eagerly=role == "judge", jit_compile=False)
    history = lesson.fit(data.Batches([(images, np.repeat([0, 1], 8))], 4, 0), epochs=2, verbose=0).history
    assert history["cross_entropy"][1] < history["cross_entropy"][0]
