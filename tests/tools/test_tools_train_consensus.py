"""The classifier by consensus: pretrained networks, labelled draws, their weights, and stages that resume."""

import collections
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tests.support.lite_states import random_state
from tests.support.tooling import tool
from tfgradgen.models.classifier import load_classifier

NUM_CLASSES = 3
LATENT_DIM = 5


def reference_features(state: dict[str, np.ndarray], blocks: list[tuple[int, ...]], x: tf.Tensor) -> tf.Tensor:
    """EfficientNet-Lite as published: every convolution with its batch normalization, `x` as the weights expect it."""

    def norm(y: tf.Tensor, name: str) -> tf.Tensor:
        gamma, beta, mean, variance = (state[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        return tf.nn.batch_normalization(y, mean, variance, beta, gamma, 1e-3)

    def conv(y: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        return tf.nn.conv2d(y, state[f"{name}.weight"].transpose(2, 3, 1, 0), stride, "SAME")

    x = tf.nn.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for k, (_, stride, channels, filters, expansion) in enumerate(blocks):
        name, y = f"_blocks.{k}", x
        if expansion > 1:
            y = tf.nn.relu6(norm(conv(y, f"{name}._expand_conv"), f"{name}._bn0"))
        kernel = state[f"{name}._depthwise_conv.weight"].transpose(2, 3, 0, 1)
        y = tf.nn.depthwise_conv2d(y, kernel, [1, stride, stride, 1], "SAME")
        y = norm(conv(tf.nn.relu6(norm(y, f"{name}._bn1")), f"{name}._project_conv"), f"{name}._bn2")
        x = x + y if stride == 1 and channels == filters else y
    return tf.reduce_mean(tf.nn.relu6(norm(conv(x, "_conv_head"), "_bn1")), [1, 2])


@pytest.mark.parametrize(("variant", "millions"), [("lite0", 4.652), ("lite1", 5.417), ("lite2", 6.092)])
def test_the_networks_have_the_published_number_of_parameters(variant: str, millions: float) -> None:
    """The numbers are as published, including batch normalization's scale and shift and the last layer of 1000 classes."""
    network = tool("efficientnet_lite").Network(variant, 32)
    kernels, biases = (sum(int(np.prod(v.shape)) for v in values) for values in (network.kernels, network.biases))
    assert kernels + 2 * biases + 1280 * 1000 + 1000 == pytest.approx(1e6 * millions, abs=600)


def test_folded_weights_are_the_network_with_batch_normalization() -> None:
    lite = tool("efficientnet_lite")
    state = random_state("lite0", np.random.default_rng(0))
    network = lite.Network("lite0", 32)
    network.assign(lite.folded(state, "lite0"))
    x255 = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = reference_features(state, lite.blocks_of("lite0"), (x255 - 127) / 128)
    assert expected.shape == (2, 1280)
    assert np.std(expected) > 0.1, "a network that says something"
    np.testing.assert_allclose(network(x255 / 127.5 - 1), expected, atol=2e-3)
    assert [tuple(m.shape[1:3]) for m in network.maps(x255)][::5] == [(16, 16), (2, 2), (2, 2), (1, 1)]


def test_resizing_is_bicubic() -> None:
    lite = tool("efficientnet_lite")
    image = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    for size in (16, 24, 37):
        # TensorFlow looks its kernel up in a table of 1024 entries.
        np.testing.assert_allclose(lite.resize(image, size), tf.image.resize(image, (size, size), "bicubic"), atol=2e-3)
    linear = tf.image.resize(image, (24, 24), "bilinear")
    assert np.abs(lite.resize(image, 24) - linear).max() > 0.1


class Tensor:
    """A stand-in for a torch.Tensor in `save_as_torch_did`: a view of a storage."""

    def __init__(self, key: str, storage: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.key, self.storage, self.shape, self.strides = key, storage, shape, strides


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return None
        return ("storage", sys.modules["torch"].FloatStorage, str(id(obj)), "cpu", obj.size, None)

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Tensor):
            return NotImplemented
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (obj.storage, 0, obj.shape, obj.strides, False, collections.OrderedDict())


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    class FloatStorage:
        __module__, __qualname__ = "torch", "FloatStorage"

    def _rebuild_tensor_v2(*args: Any) -> None: ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch.FloatStorage, torch._utils, utils._rebuild_tensor_v2 = FloatStorage, utils, _rebuild_tensor_v2  # type: ignore
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def save_as_torch_did(path: Path, tensors: dict[str, Any]) -> None:
    """Save in the format of torch.save before 1.6: three headers, the dictionary, the keys of its storages, their numbers."""
    with path.open("wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        TorchPickler(file, protocol=2).dump(collections.OrderedDict(tensors))
        storages = [tensor.storage for tensor in tensors.values() if isinstance(tensor, Tensor)]
        pickle.dump([str(id(storage)) for storage in storages], file, protocol=2)
        for storage in storages:
            file.write(np.int64(storage.size).tobytes() + storage.tobytes())


@pytest.mark.usefixtures("fake_torch")
def test_torch_files_are_read_without_torch_and_with_strides(tmp_path: Path) -> None:
    a, b = np.arange(6, dtype="float32"), np.arange(4, dtype="float32") + 10
    tensors = {"plain": Tensor("a", a, (2, 3), (3, 1)), "transposed": Tensor("b", b, (2, 2), (1, 2))}
    save_as_torch_did(tmp_path / "w.pth", tensors)
    arrays = tool("efficientnet_lite").read_torch(tmp_path / "w.pth")
    np.testing.assert_array_equal(arrays["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["transposed"], [[10, 12], [11, 13]])


@pytest.mark.usefixtures("fake_torch")
def test_a_torch_file_runs_nothing_and_reads_nothing_outside(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    for name, value in (("evil", Evil()), ("beyond", Tensor("a", np.zeros(4, "float32"), (3, 3), (3, 1)))):
        save_as_torch_did(tmp_path / "w.pth", {name: value})
        with pytest.raises(pickle.UnpicklingError, match="expected"):
            tool("efficientnet_lite").read_torch(tmp_path / "w.pth")
    assert not (tmp_path / "made").exists()


def test_missing_weights_name_the_extra() -> None:
    with pytest.raises(SystemExit, match=r"efficientnet_lite9_pytorch_model.*install"):
        tool("efficientnet_lite").weights_path("lite9")


def test_targets_are_what_both_say_and_the_rest_is_other() -> None:
    classifier = np.log([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]])
    lite = np.log([[0.8, 0.1], [0.1, 0.2]])
    both = tool("label_draws").targets(classifier, lite)
    np.testing.assert_allclose(both, [[0.4, 0.025, 0.575], [0.09, 0.01, 0.9]], rtol=1e-6)


class FakeTeachers:
    """Teachers with one class per sign of z's first coordinates; they count their calls and fail at the call `fails_at`."""

    latent_dim = LATENT_DIM

    def __init__(self, fails_at: int | None = None):
        self.calls, self.fails_at = 0, fails_at

    def generate(self, z: np.ndarray) -> np.ndarray:
        levels = np.clip(128 + 40 * z[:, :NUM_CLASSES], 0, 255).astype("uint8")
        return np.broadcast_to(levels[:, None, None, :], (len(z), 64, 64, NUM_CLASSES)).copy()

    def label(self, z: np.ndarray) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        logits = np.concatenate([4 * z[:, :NUM_CLASSES], np.full((len(z), 1), 6.0)], 1)
        return {
            "z": z,
            "image": self.generate(z),
            "classifier": log_softmax(logits, axis=1).astype("float32"),
            "lite": log_softmax(logits, axis=1)[:, :NUM_CLASSES].astype("float32"),
        }


def test_labelling_resumes_and_gives_the_same_draws(tmp_path: Path) -> None:
    label, lines = tool("label_draws"), []  # type: ignore[var-annotated]
    whole, first, second = FakeTeachers(), FakeTeachers(fails_at=3), FakeTeachers()
    label.label_all(tmp_path / "whole", "prior", 39, lambda: whole, size=10, say=lines.append)
    assert whole.calls == len(lines) == 4
    with pytest.raises(KeyboardInterrupt):
        label.label_all(tmp_path / "parts", "prior", 39, lambda: first, size=10, say=lines.append)
    (tmp_path / "parts/prior/.00002.partial").mkdir()
    (tmp_path / "parts/prior/.00002.partial/z.npy").write_bytes(b"half")
    label.label_all(tmp_path / "parts", "prior", 39, lambda: second, size=10, say=lines.append)
    assert second.calls == 2, "two chunks stood already"
    for kind, number in (("whole", 4), ("parts", 4)):
        assert len(label.chunks(tmp_path / kind, "prior")) == number
    for a, b in zip(label.chunks(tmp_path / "whole", "prior"), label.chunks(tmp_path / "parts", "prior"), strict=True):
        for x, y in zip(label.read_chunk(a), label.read_chunk(b), strict=True):
            np.testing.assert_array_equal(x, y)
    never: Any = None
    label.label_all(tmp_path / "parts", "prior", 39, never, size=10)


def test_near_draws_come_from_the_prior_chunk_and_lie_around_draws_of_a_class(tmp_path: Path) -> None:
    label = tool("label_draws")
    with pytest.raises(SystemExit, match="expected the prior draws"):
        label.points(tmp_path, "near", 0, LATENT_DIM, 10)
    z = np.random.default_rng(0).standard_normal((50, LATENT_DIM)).astype("float32")
    target = np.tile(np.array([0, 0, 0, 1], "float32"), (50, 1))
    target[7] = [1, 0, 0, 0]
    moved = label.near(z, target, 300, np.random.default_rng(1))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(unit(moved[200:]) @ unit(z[7]), 1, atol=1e-5)
    ratio = np.linalg.norm(moved[200:], axis=1) / np.linalg.norm(z[7])
    assert 0.6 <= ratio.min() < 0.7 < 1.1 < ratio.max() <= 1.2
    closeness = unit(moved) @ unit(z[7])
    assert closeness[100:200].min() > 0.3 > closeness[:100].min(), "the long arcs lead away, the short ones do not"


def test_compiled_takes_any_number_of_rows() -> None:
    run = tool("label_draws").compiled(lambda x: 2 * x + 1, (3,))
    for count in (1, 20, 47):
        x = np.arange(3 * count, dtype="float32").reshape(count, 3)
        np.testing.assert_allclose(run(x), 2 * x + 1)


@pytest.fixture
def draws_folder(tmp_path: Path) -> Path:
    tool("label_draws").label_all(tmp_path / "draws", "prior", 4000, lambda: FakeTeachers(), size=1000, say=lambda _: None)
    return tmp_path / "draws"


def test_draws_are_split_shown_by_interest_and_weighed_back(draws_folder: Path) -> None:
    data, label = tool("consensus_data"), tool("label_draws")
    draws, held_out = data.Draws(draws_folder), data.Draws(draws_folder, held_out=True)
    assert (len(draws), len(held_out)) == (3000, 1000)
    z = np.concatenate([label.read_chunk(f, ("z",))[0] for f in draws.folders])
    np.testing.assert_array_equal(
        draws.images(np.array([0, 999, 1000, 2999])), FakeTeachers().generate(z[[0, 999, 1000, 2999]])
    )
    probs, weights = draws.sampling()
    np.testing.assert_allclose(probs * weights, np.full(3000, 1 / 3000), rtol=1e-6)
    of_class = 1 - draws.target[:, -1]
    photos = SimpleNamespace(sets=[(np.zeros((4, 64, 64, 3), "uint8"), np.eye(NUM_CLASSES + 1, dtype="float32"))] * 2)
    batches = data.Batches(draws, photos, 3, seed=0, counts=(4000, 2, 2))
    ((image, target, weight, u),) = batches[0]
    assert u.shape == (4, 8)
    assert image.shape == (4004, 64, 64, 3)
    shown = 1 - target[:4000, -1].astype("float64")
    weighed = shown * weight[:4000]
    error = weighed.std() / np.sqrt(4000)
    assert weighed.mean() == pytest.approx(of_class.mean(), abs=4.5 * error)
    assert shown.mean() - of_class.mean() > 20 * error, "without the weights, draws of a class count too often"
    again, other = data.Batches(draws, photos, 3, 0, (4000, 2, 2))[0], batches[1]
    np.testing.assert_array_equal(again[0][1], target)
    assert (other[0][1] != target).any()
    assert weight[4000:].sum() == pytest.approx(data.PHOTOGRAPH_WEIGHT * 4000)


def test_a_round_keeps_what_the_student_would_and_weighs_it_back(draws_folder: Path) -> None:
    stages, data = tool("consensus_stages"), tool("consensus_data")
    teachers = FakeTeachers()

    def opinion(image: np.ndarray) -> np.ndarray:
        level = (image[:, 0, 0].astype("float64") - 128) / 40
        return np.concatenate([4 * level, np.full((len(image), 1), 6.0)], 1)

    studio = SimpleNamespace(draws=draws_folder, teachers=teachers, student=lambda stage: stage, opinion=lambda s: opinion)
    stages.label_round(studio, "round1", "head", 2000, size=1000)
    assert teachers.calls == 2
    stages.label_round(studio, "round1", "head", 2000, size=1000)
    assert teachers.calls == 2, "the chunks stood already"
    both = data.Draws(draws_folder)
    num_prior = 3000
    np.testing.assert_allclose([both.weight[:num_prior].sum(), both.weight[num_prior:].sum()], 1, rtol=1e-6)
    of_class = 1 - both.target[:, -1].astype("float64")
    prior, kept = of_class[:num_prior], of_class[num_prior:]
    weight = both.weight[num_prior:]
    error = np.hypot(prior.std() / np.sqrt(len(prior)), kept.std() * np.sqrt(np.sum(weight**2)))
    assert np.sum(weight * kept) == pytest.approx(prior.mean(), abs=4.5 * error)
    assert kept.mean() - prior.mean() > 4.5 * error, "what was kept is of a class more often than the prior"


def test_students_are_saved_halved_frozen_and_exported(tmp_path: Path) -> None:
    module, stages = tool("consensus_network"), tool("consensus_stages")
    keras.utils.set_random_seed(0)
    student = module.Student(NUM_CLASSES + 1, variant="lite0", image_size=32, hidden=8)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    features = np.asarray(student.features(image))
    assert features.shape == (2, 80 + 192 + 1280)
    student.standardize(np.random.default_rng(1).normal(features.mean(0), 1 + features.std(0), (50, features.shape[1])))
    student.other_bias.assign(0.5)
    student.temperature.assign(2.0)
    logits = np.asarray(student(image))
    expected = (logits + 0.5 * np.eye(NUM_CLASSES + 1)[-1]) / 2
    np.testing.assert_allclose(student.opinion(image), expected, atol=1e-5)
    studio = SimpleNamespace(
        weights=lambda stage: tmp_path / f"{stage}.npz",
        empty_student=lambda **more: module.Student(NUM_CLASSES + 1, variant="lite0", image_size=32, hidden=8, **more),
        labels=[*({"name": f"c{k}"} for k in range(NUM_CLASSES)), {"name": "other", "background": True}],
        size=32,
        num_labelled=lambda: 12_345,
    )
    with pytest.raises(SystemExit, match="run that stage first"):
        module.restore(student, studio.weights("head"))
    module.save(student, studio.weights("head"))
    stages.write_model(studio, "head", tmp_path / "model")
    np.testing.assert_allclose(load_classifier(tmp_path / "model")(image), expected, atol=0.05 * np.abs(expected).max())
    size = sum(path.stat().st_size for path in (tmp_path / "model").rglob("*") if path.is_file())
    parameters = sum(int(np.prod(v.shape)) for v in student.network.weights)
    assert size < 2.3 * parameters, "16 bits a weight"
    assert "from 12,345 labelled draws" in (tmp_path / "model/MODEL.md").read_text()
    for num_blocks, trainable in ((4, 4), (None, 0)):
        student.freeze(num_blocks)
        moving = [v.trainable for v in student.network.kernels]
        assert moving == sorted(moving)
        assert sum(moving) == (3 * 12 + 1 if trainable else 0)


def test_a_lesson_learns_from_features_and_from_images() -> None:
    stages, network = tool("consensus_stages"), tool("consensus_network")
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    eye = np.eye(NUM_CLASSES + 1, dtype="float32")
    label = rng.integers(0, NUM_CLASSES + 1, 64)
    student = network.Student(NUM_CLASSES + 1, variant="lite0", image_size=32, hidden=8)
    student.freeze(None)
    features = rng.standard_normal((64, student.num_features)).astype("float32") / 10
    features[np.arange(64), label] += 2
    rows = stages.Rows((features, eye[label], np.ones(64, "float32")), np.ones(64), steps=10, size=64)
    lesson = stages.Lesson(student)
    lesson.compile(optimizer=stages.optimizer_of(1e-2, 30), jit_compile=False)
    losses = lesson.fit(rows, epochs=3, verbose=0).history["cross_entropy"]
    assert losses[-1] < 0.5 * losses[0]
    student.freeze(15)
    before = [np.asarray(v) for v in student.network.kernels]
    image = np.broadcast_to(60 * label[:32, None, None, None], (32, 64, 64, 3)).astype("uint8")
    lesson = stages.Lesson(student, counts=(24, 8))
    lesson.compile(optimizer=stages.optimizer_of(1e-3, 4), run_eagerly=True, jit_compile=False)
    batch = (image, eye[label[:32]], np.ones(32, "float32"), rng.random((8, 8), "float32"))
    lesson.fit(Repeated(batch), epochs=1, verbose=0)
    changed = [(old != np.asarray(new)).any() for old, new in zip(before, student.network.kernels, strict=True)]
    assert not any(changed[:-4])
    assert all(changed[-4:])


class Repeated(keras.utils.PyDataset):
    def __init__(self, batch: Any):
        super().__init__()
        self.batch = batch

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return (self.batch,)


class Plain(keras.Model):
    """A student with logits from the mean colour, which trains quickly."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(NUM_CLASSES + 1, kernel_initializer="zeros")
        self.head.build((None, 3))
        self.built = True

    def freeze(self, num_blocks: int) -> None: ...

    def call(self, image: Any, training: bool = False) -> Any:
        return self.head(tf.reduce_mean(image, [1, 2]))


def test_fine_tuning_goes_on_where_it_stopped(draws_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped after the second of four epochs and started again, and ends with the weights of an uninterrupted run."""
    stages = tool("consensus_stages")
    monkeypatch.setattr(stages, "STEPS_PER_EPOCH", 2)
    constant = lambda rate, steps: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)  # noqa: E731
    monkeypatch.setattr(stages, "optimizer_of", constant)
    photos = SimpleNamespace(sets=[(np.zeros((4, 64, 64, 3), "uint8"), np.eye(NUM_CLASSES + 1, dtype="float32"))] * 2)

    def studio(name: str, is_stopped: bool = False) -> Any:
        def calibrate(student: Any) -> None:
            if is_stopped:
                raise KeyboardInterrupt

        work = draws_folder.parent / name
        work.mkdir(exist_ok=True)
        weights = lambda stage: work / f"{stage}.npz"  # noqa: E731
        student = lambda before: Plain()  # noqa: E731
        return SimpleNamespace(
            work=work, draws=draws_folder, photos=photos, weights=weights, student=student, calibrate=calibrate
        )

    def kernel(name: str) -> np.ndarray:
        with np.load(studio(name).weights("tune")) as arrays:
            return arrays["v0"]

    stages.tune(studio("whole"), "tune", "head", steps=8)
    with pytest.raises(KeyboardInterrupt):
        stages.tune(studio("parts", is_stopped=True), "tune", "head", steps=4)
    assert not studio("parts").weights("tune").exists()
    stages.tune(studio("parts"), "tune", "head", steps=8)
    np.testing.assert_allclose(kernel("parts"), kernel("whole"), atol=1e-6)
    stages.tune(studio("short"), "tune", "head", steps=4)
    assert np.abs(kernel("short") - kernel("whole")).max() > 1e-3, "the later steps count"
    assert not (studio("parts").work / "backup_tune").exists()


def test_mixture_weighs_every_row_as_it_should() -> None:
    stages, data = tool("consensus_stages"), tool("consensus_data")
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 1.5, 30)
    weight /= weight.sum()
    target = softmax(rng.standard_normal((30, NUM_CLASSES + 1)), axis=1)
    draws = (rng.standard_normal((30, 4)), target, weight, data.interest(target))
    photos = [(rng.standard_normal((n, 4)), np.tile(target[:1], (n, 1))) for n in (6, 9)]
    (features, targets, losses), probs = stages.mixture(draws, photos)
    assert features.shape == (45, 4)
    assert len(targets) == 45
    assert probs.sum() == pytest.approx(1)
    np.testing.assert_allclose((probs * losses)[:30], weight)
    assert (probs * losses)[30:].sum() == pytest.approx(data.PHOTOGRAPH_WEIGHT)
    assert probs[30:].sum() == pytest.approx(sum(data.COUNTS[1:]) / sum(data.COUNTS))


def test_exact_figures_weigh_draws_by_the_classifier() -> None:
    measure = tool("measure_consensus")
    probs = np.array([[0.8, 0.0, 0.2], [0.2, 0.0, 0.8], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    teachers = np.array([[0.4, 0.0, 0.6], [0.2, 0.0, 0.8], [0.0, 0.5, 0.5], [0.0, 0.25, 0.75]])
    verdicts = {"judge": np.array([0, 1, 1, 1])}
    figures = measure.exact_figures(probs, verdicts, teachers, ["goldfish", "pizza"])
    assert figures["judge_mean"] == pytest.approx((0.8 + 1) / 2)
    assert figures["judge_worst"] == figures["judge_goldfish"] == pytest.approx(0.8)
    assert figures["agreement_mean"] == pytest.approx(((0.8 * 0.4 + 0.04) / (0.64 + 0.04) + 0.75) / 2)
    assert (figures["mass_mean"], figures["mass_least"]) == pytest.approx((0.25, 0.25))
    assert figures["least_ess"] == pytest.approx(1 / (0.8**2 + 0.2**2))
    photo = measure.photograph_figures(probs, np.array([0, 0, 1, 1]))
    assert photo["top1_named"] == 1
    assert photo["top1"] == 0.75, "of two equal answers the first counts"


def test_rows_of_figures_replace_those_of_the_same_stage(tmp_path: Path) -> None:
    append = tool("measure_consensus").append_row
    append(tmp_path / "f.csv", {"stage": "head", "top1": 0.8})
    append(tmp_path / "f.csv", {"stage": "tune", "cost": 1.4})
    append(tmp_path / "f.csv", {"stage": "head", "top1": 0.9})
    assert (tmp_path / "f.csv").read_text().splitlines() == ["stage,top1,cost", "tune,,1.4", "head,0.9,"]


def test_cached_arrays_are_made_once(tmp_path: Path) -> None:
    data = tool("consensus_data")
    made = [data.cached(tmp_path / "a/b.npz", lambda: {"x": np.arange(3)}) for _ in range(2)]
    np.testing.assert_array_equal(made[0]["x"], made[1]["x"])
    never: Any = None
    data.cached(tmp_path / "a/b.npz", never)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.npz"]


def test_a_gradient_is_timed_for_each_classifier_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = tool("measure_consensus")
    monkeypatch.setattr(measure, "REPEATS", 3)
    light = lambda x: x[:, :2]  # noqa: E731

    def heavy(x: tf.Tensor) -> tf.Tensor:
        y = x
        for _ in range(60):
            y = tf.sin(y @ tf.eye(400))
        return y[:, :2]

    generator = lambda z: tf.tile(z, [1, 80])  # noqa: E731
    seconds = measure.gradient_seconds(generator, {"light": light, "heavy": heavy}, LATENT_DIM)
    assert seconds["heavy"] > 2 * seconds["light"] > 0
