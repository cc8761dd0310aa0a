"""Rows that go through the networks together: their places, the check before an export, and the results."""

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import toy
from tests.support.served_toys import Mixing, toy_plan, with_shape
from tfgradgen.cli.commands import main
from tfgradgen.core.contracts import Networks
from tfgradgen.media.sound import Sound
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.serving.chains import Rows, distinct, place_of, places_of
from tfgradgen.serving.module import Serving
from tfgradgen.serving.row_check import check_rows

SIZE = 4


def asked(seeds: list[int], index: int = 1) -> Rows:
    seed = tf.bitcast(tf.constant(seeds, tf.int64), tf.int32)
    return Rows(tf.fill([len(seeds)], index), tf.ones([len(seeds)]), seed, tf.fill([len(seeds)], 4))


def test_each_row_has_its_own_place_in_any_request() -> None:
    seeds = [5, -3, 2**40, 2**63 - 1, 6, 9, 5 + SIZE, 7, -(2**63)]
    place = place_of(asked(seeds), SIZE).numpy()
    found = places_of(tf.constant(place), SIZE)
    rows, batch = found.rows.numpy(), found.batch.numpy()
    assert sorted(rows[rows >= 0].tolist()) == list(range(len(seeds)))
    for k, seed in enumerate(seeds):
        assert rows[batch[k], place[k]] == k
        assert place_of(asked([seed]), SIZE).numpy() == place[k]
    assert len(rows) == np.bincount(place).max(), "no more batches than a place has rows"
    in_turn = place_of(asked(list(range(-2, 2))), SIZE).numpy()
    assert sorted(in_turn) == list(range(SIZE)), "of seeds that follow one another"


def test_copies_of_a_row_share_its_place() -> None:
    rows, z = asked([1, 2, 1, 1, 2]), tf.constant([[0.0], [0.0], [0.0], [1.0], [0.0]])
    numbers, equal = distinct(rows, z)
    assert numbers.numpy().tolist() == [0, 1, 3], "the fourth starts elsewhere"
    assert equal.numpy().tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("name", ["sample", "continue"])
def test_together_rows_run_the_chains_that_they_run_alone(name: str) -> None:
    """The noise is the same, so the chains agree up to rounding, which few steps do not amplify."""
    plan = toy_plan(batched=SIZE, step_sizes=(0.3, 0.4))
    signatures = Serving(Networks(with_shape(toy.ToyGenerator()), toy.ToyClassifier()), [], plan).signatures()
    count = 11
    given = dict(
        label=tf.constant(["no", "yes"] * count)[:count],
        seed=tf.constant(np.random.default_rng(0).integers(-(2**60), 2**60, count)),
        num_steps=tf.constant(np.arange(count) % 5, tf.int32),
    )
    given |= {"z": tf.random.stateless_normal([count, 6], [1, 2])} if name == "continue" else {}
    alone, together = signatures[name](**given), signatures[f"{name}_batched"](**given)
    for key in ("z", "class_prob", "target_log_prob", "accept_rate"):
        np.testing.assert_allclose(together[key], alone[key], rtol=1e-4, atol=1e-5)
    assert (together["accept_rate"].numpy() > 0).tolist() == [k % 5 > 0 for k in range(count)]


def test_a_row_has_the_same_bits_beside_any_others_unless_a_network_mixes_them() -> None:
    def changed(generator: Any) -> bool:
        sample = Serving(Networks(with_shape(generator), toy.ToyClassifier()), [], toy_plan(batched=SIZE)).signatures()
        others = [3, 4, 5, 6, 7, 8, 2 + SIZE]
        outputs = [
            sample["sample_batched"](
                label=tf.constant(["yes"] * (1 + len(beside))),
                seed=tf.constant([*beside[:first], 2, *beside[first:]], tf.int64),
                num_steps=tf.constant([*[1] * first, 4, *[3] * (len(beside) - first)], tf.int32),
            )
            for first, beside in ((0, []), (0, others), (3, others), (7, others), (1, [2, 2]))
        ]
        rows = [{key: value[k] for key, value in each.items()} for k, each in zip((0, 0, 3, 7, 1), outputs, strict=True)]
        return any(not np.array_equal(row[key], rows[0][key]) for row in rows for key in row)

    assert not changed(toy.ToyGenerator())
    assert changed(Mixing())


def test_the_check_finds_a_network_that_mixes_rows() -> None:
    def check(generator: Any, classifier: Any) -> Any:
        return check_rows(Networks(generator, classifier), (0, 1), 1.0, SIZE, 0)

    class Normalizing(toy.ToyClassifier):
        """A classifier that normalizes by the statistics of the batch, like a network saved in training mode."""

        def __call__(self, image: tf.Tensor) -> tf.Tensor:
            logits = super().__call__(image)
            return logits - tf.reduce_mean(logits, 0)

    right = check(toy.ToyGenerator(), toy.ToyClassifier())
    assert (right.num_rows, right.is_independent, right.row_gap) == (SIZE, True, 0.0)
    for models in ((Mixing(), toy.ToyClassifier()), (toy.ToyGenerator(), Normalizing())):
        found = check(*models)
        assert not found.is_independent
        assert found.row_gap > 0.1


@pytest.mark.slow
def test_the_shipped_models_leave_rows_alone() -> None:
    found = check_rows(Networks(load_generator(), load_classifier()), (0, 5), 1.0, 16, 0)
    assert found.is_independent
    assert found.place_gap < 1e-3, "rounding, if anything"


def test_models_that_mix_rows_are_exported_without_batches(
    untuned: None,
    toy_pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def classify(image: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(image, [1, 2]) * (4.0 + tf.reduce_mean(image))

    monkeypatch.chdir(tmp_path)
    labels = [{"name": name} for name in ("goldfish", "king_penguin", "alp")]
    card = {"image_range": [-1, 1], "labels": labels, "output": "logits"}
    mixing = toy.save(tmp_path / "mixing", classify, [None, 8, 8, 3], card)
    few = ["--num_chains=2", "--num_steps=2", "--num_start_draws=2", "--batch_sizes=1", "--batched=8"]
    main(["export", "--labels=alp", "--kernel=hmc", f"--generator={toy_pair[0]}", f"--classifier={mixing}", *few, "--out=x"])
    said = capsys.readouterr()
    assert "warning  batched: rows that go through these models together change one another, by up to" in said.err
    record = json.loads(Path("x/1/export.json").read_text())
    assert record["signatures"] == ["serving_default", "sample", "continue", "grid"]
    assert record["row_check"]["is_independent"] is False
    assert record["row_check"]["row_gap"] > 0
    assert "--batched" not in Path("x/rest_client.py").read_text()
    assert "allowed_batch_sizes: 8" not in Path("x/batching.config").read_text()


class Speaker:
    """A generator z [B, 6] -> sounds at 8 kHz that rise."""

    latent_dim, image_shape, sample_rate = 6, (40,), 8000.0

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        return tf.tanh(z[:, :1]) * tf.linspace(0.0, 1.0, 40)


class Mover:
    """A generator z [B, 6] -> clips of grey frames at 10 per second, each brighter than the one before."""

    latent_dim, image_shape, frame_rate = 6, (3, 4, 5, 3), 10.0

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        shade = tf.tanh(z[:, :1])[..., None, None, None] * tf.constant([0.2, 0.6, 1.0])[:, None, None, None]
        return shade * tf.ones([3, 4, 5, 3])


class Listener:
    """A classifier with the mean of a sound or a clip as two logits."""

    num_classes = 2

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        mean = tf.reduce_mean(values, list(range(1, len(values.shape))))
        return tf.stack([-mean, mean], -1)


def test_sounds_come_as_wav_files() -> None:
    signatures = Serving(Networks(Speaker(), Listener()), [], toy_plan(batched=SIZE)).signatures()
    given = dict(label=tf.constant(["no", "yes"]), seed=tf.constant([1, 2], tf.int64), num_steps=tf.constant([2, 2]))
    found = signatures["sample_batched"](**given)
    assert "image_bytes" not in found
    expected = Sound((40,), 8000.0).stored(Speaker()(found["z"]))
    for content, samples in zip(found["sound_bytes"].numpy(), expected, strict=True):
        with wave.open(io.BytesIO(content)) as file:
            assert file.getframerate() == 8000
            assert np.array_equal(np.frombuffer(file.readframes(99), "<i2"), samples)
    grid = signatures["grid"](**given)
    assert grid.keys() == {"sound_bytes"}
    with wave.open(io.BytesIO(grid["sound_bytes"].numpy()[0])) as file:
        assert file.getnframes() == 16 * (40 + 2000)


def test_clips_come_as_gif_files() -> None:
    signatures = Serving(Networks(Mover(), Listener()), [], toy_plan()).signatures()
    given = dict(label=tf.constant(["yes"]), seed=tf.constant([1], tf.int64), num_steps=tf.constant([2]))
    found = signatures["sample"](**given)
    with Image.open(io.BytesIO(found["video_bytes"].numpy()[0])) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (3, (5, 4), 100)
    grid = signatures["grid"](**given)
    assert grid.keys() == {"video_bytes"}
    with Image.open(io.BytesIO(grid["video_bytes"].numpy()[0])) as gif:
        assert (gif.n_frames, gif.size) == (3, (20, 16))
