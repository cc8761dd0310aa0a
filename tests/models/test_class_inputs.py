"""Generators whose class is an unnamed input or a part of z; latent points and images of unusual shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import refused
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.models.generator import Generator, load_generator
from tfgradgen.models.loading.metadata import Label

pytestmark = pytest.mark.usefixtures("quick_runs")

QUICK = ["--kernel=rejection", "--num_chains=4", "--num_results=2"]
SIZE, NUM_CLASSES = 6, 3
COLOURS = tf.eye(3)


def spec(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def coloured(z: tf.Tensor, one_hot: tf.Tensor) -> tf.Tensor:
    """Map z [B, 6] and class [B, 3] to [B, 8, 8, 3] in [-1, 1]; the channel of the class is bright."""
    texture = tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3])
    return tf.tanh(0.3 * texture + (4.0 * tf.cast(one_hot, tf.float32) - 1.0)[:, None, None, :])


def brightest(image: tf.Tensor) -> list[int]:
    """Return the brightest channel of each image."""
    return [int(k) for k in np.asarray(image).mean((1, 2)).argmax(1)]


def of_number(z: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"image": coloured(z, tf.one_hot(tf.cast(tf.reshape(number, [-1]), tf.int32), NUM_CLASSES))}


def check_classes(generator: Generator, by_name: bool = True) -> None:
    """Check that each class of `generator` gives its own channel, for any z."""
    z = tf.random.stateless_normal([4, generator.latent_dim], [1, 2])
    for number in range(NUM_CLASSES):
        of_class = generator.for_label(Label(str(number))) if by_name else generator.of_class(number)
        assert brightest(of_class(z)) == [number] * 4


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [([None, 1], tf.float32), ([None], tf.float32), ([None, 1], tf.int32), ([None], tf.int64), ([None, 1, 1], tf.float32)],
    ids=str,
)
def test_a_class_number_next_to_z_is_identified_by_its_shape(shape: list[int | None], dtype: tf.DType, tmp_path: Path) -> None:
    """Keras names its inputs input_layer and keras_tensor_3."""
    folder = toy.save_signature(
        tmp_path / "g",
        lambda keras_tensor_3, keras_tensor_4: of_number(keras_tensor_4, keras_tensor_3),
        spec("keras_tensor_3", *shape, dtype=dtype),
        spec("keras_tensor_4", None, SIZE),
    )
    with pytest.raises(UserError, match=r"number of classes for its class input keras_tensor_3 .*give num_classes=N"):
        load_generator(folder)
    generator = load_generator(folder, num_classes=NUM_CLASSES)
    assert generator.latent_dim == SIZE
    assert "class_input" in generator.assumed
    check_classes(generator)
    uniform = load_generator(folder, num_classes=NUM_CLASSES, generator_class="uniform")
    assert uniform.latent_dim == SIZE + 1
    seen = brightest(uniform(tf.random.stateless_normal([64, SIZE + 1], [3, 4])))
    assert set(seen) == {0, 1, 2}


def two_wide(folder: Path, names: tuple[str, str] = ("a", "b"), card: dict[str, Any] | None = None) -> Path:
    first, second = names
    module = tf.Module()
    fn = tf.function(lambda **inputs: {"image": coloured(inputs[first], inputs[second])})
    concrete = fn.get_concrete_function(**{first: spec(first, None, SIZE), second: spec(second, None, NUM_CLASSES)})
    tf.saved_model.save(module, str(folder), signatures={"serving_default": concrete})
    if card:
        (folder / "model.json").write_text(json.dumps(card))
    return folder


def test_ambiguous_inputs_are_refused(tmp_path: Path) -> None:
    folder = two_wide(tmp_path / "g")
    with pytest.raises(UserError, match=r"inputs .*a float32 \[\?, 6\].*, any of which may .*class_input=NAME"):
        load_generator(folder)
    with pytest.raises(UserError, match="give one of these as class_input=NAME"):
        load_generator(folder, class_input="c")
    for settings in ({"class_input": "b"}, {"num_classes": NUM_CLASSES}, {"latent_dim": SIZE}):
        check_classes(load_generator(folder, **settings))
    with pytest.raises(UserError, match="num_classes: expected 3, the width of its class input, got 4"):
        load_generator(folder, class_input="b", num_classes=4)
    (folder / "model.json").write_text(json.dumps({"class_input": "b", "labels": ["red", "green", "blue"]}))
    assert [label.name for label in load_generator(folder).classes.labels] == ["red", "green", "blue"]


@pytest.mark.parametrize("names", [("noise", "b"), ("a", "one_hot_label"), ("latent_vector", "input_2")], ids=str)
def test_telling_names_are_enough(names: tuple[str, str], tmp_path: Path) -> None:
    generator = load_generator(two_wide(tmp_path / "g", names))
    assert "class_input" in generator.assumed
    check_classes(generator)


def sliced(folder: Path, start: int) -> Path:
    """Return a generator of z [?, 9], in which the three coordinates from `start` on are a one-hot class."""

    def fn(z: tf.Tensor) -> dict[str, tf.Tensor]:
        rest = tf.concat([z[:, :start], z[:, start + NUM_CLASSES :]], 1)
        return {"image": coloured(rest, z[:, start : start + NUM_CLASSES])}

    return toy.save_signature(folder, fn, spec("z", None, SIZE + NUM_CLASSES), card={"image_range": [-1, 1]})


@pytest.mark.parametrize(
    ("start", "text"), [(6, "6:9"), (6, "6:"), (6, "-3:"), (0, ":3"), (0, "0:3"), (2, "2:5")], ids=lambda value: str(value)
)
def test_a_one_hot_class_within_z(start: int, text: str, tmp_path: Path) -> None:
    folder = sliced(tmp_path / "g", start)
    generator = load_generator(folder, class_slice=text)
    assert generator.latent_dim == SIZE
    check_classes(generator)
    uniform = load_generator(folder, class_slice=text, generator_class="uniform")
    assert uniform.latent_dim == SIZE + 1
    assert set(brightest(uniform(tf.random.stateless_normal([64, SIZE + 1], [3, 4])))) == {0, 1, 2}
    latent = load_generator(folder, class_slice=text, generator_class="latent")
    assert latent.latent_dim == SIZE + NUM_CLASSES
    (folder / "model.json").write_text(json.dumps({"class_slice": [start, start + NUM_CLASSES], "image_range": [-1, 1]}))
    check_classes(load_generator(folder))


@pytest.mark.parametrize("text", ["6:10", "9:", "0:9", ":", "a:b", "5:3", "3", "-10:"])
def test_a_slice_that_is_not_part_of_z(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="class_slice") as error:
        load_generator(sliced(tmp_path / "g", 6), class_slice=text)
    assert "\n" not in str(error.value)


def test_a_class_within_z_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With --generator_class_slice, images show the requested class; without it, any class."""
    monkeypatch.chdir(tmp_path)
    sliced(tmp_path / "g", 6)
    logits = lambda x: 8.0 * tf.reduce_mean(x, [1, 2])  # noqa: E731
    card = {"labels": ["0", "1", "2"], "image_range": [-1, 1], "output": "logits"}
    toy.save(tmp_path / "c", logits, [None, 8, 8, 3], card)
    command = ["sample", "--label=1", *QUICK, "--generator=g", "--classifier=c"]
    main([*command, "--generator_class_slice=6:9", "--out=told"])
    record = json.loads(Path("told/run.json").read_text())
    assert record["generator"]["latent_dim"] == SIZE
    assert record["arguments"]["generator_class_slice"] == "6:9"
    assert record["mean_class_prob"] > 0.99
    main([*command, "--generator_class_slice=6:9", "--out=told", "--resume"])
    assert "kept" in capsys.readouterr().out
    capsys.readouterr()
    assert "class_slice" in refused([*command, "--generator_class_slice=9:12", "--out=no"], capsys)


def test_numbers_take_the_names_of_a_classifier_of_as_many_classes(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    sliced(tmp_path / "g", 6)
    logits = lambda x: 8.0 * tf.reduce_mean(x, [1, 2])  # noqa: E731
    toy.save(tmp_path / "c", logits, [None, 8, 8, 3], {"labels": ["red", "green", "blue"], "image_range": [-1, 1]})
    flags = ["--generator=g", "--classifier=c", "--generator_class_slice=6:9"]
    main(["sample", "--label=green", *QUICK, *flags, "--out=green"])
    assert "its classes in the classifier's order" in capsys.readouterr().err
    assert json.loads(Path("green/run.json").read_text())["mean_class_prob"] > 0.99


@pytest.mark.parametrize("shape", [[None, 1, 1, 6], [None, 6, 1, 1], [None, 1, 6], [None, 6, 1]], ids=str)
def test_a_latent_point_with_axes_of_length_one(shape: list[int | None], tmp_path: Path) -> None:
    plain = lambda z: {"image": tf.tanh(tf.reshape(tf.tile(tf.reshape(z, [-1, 6]), [1, 32]), [-1, 8, 8, 3]))}  # noqa: E731
    generator = load_generator(toy.save_signature(tmp_path / "g", plain, spec("z", *shape)), image_range=(-1, 1))
    z = tf.random.stateless_normal([3, 6], [1, 2])
    assert generator.latent_dim == 6
    np.testing.assert_allclose(generator(z), plain(z)["image"], atol=1e-6)


def test_a_latent_point_of_another_shape_needs_its_width(tmp_path: Path) -> None:
    plain = lambda z: {"image": tf.tanh(tf.repeat(z, 2, 1))}  # noqa: E731
    folder = toy.save_signature(tmp_path / "g", plain, spec("z", None, 2, 4, 3))
    with pytest.raises(UserError, match=r"z float32 \[\?, 2, 4, 3\]; give latent_dim=24 if its values are independent normals"):
        load_generator(folder)
    assert load_generator(folder, latent_dim=24).image_shape == (4, 4, 3)


def test_images_of_bytes_have_no_gradient_and_can_be_rejected(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    fn = lambda z: {"image": tf.cast(255.0 * tf.sigmoid(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3])), tf.uint8)}  # noqa: E731
    toy.save_signature(tmp_path / "g", fn, spec("z", None, 6), card={"prior": "normal"})
    card = {"labels": ["red", "green", "blue"], "image_range": [-1, 1], "output": "logits"}
    toy.save(tmp_path / "c", lambda x: 8.0 * tf.reduce_mean(x, [1, 2]), [None, 8, 8, 3], card)
    generator = load_generator("g")
    assert (generator.image_range, generator.assumed) == ((0, 255), ())
    command = ["sample", "--label=red", "--generator=g", "--classifier=c", "--num_chains=3"]
    main([*command, "--kernel=rejection", "--num_results=2", "--out=exact"])
    capsys.readouterr()
    said = refused([*command, "--kernel=mala", "--out=chains"], capsys)
    assert "a cast" in said
    assert "--kernel=rejection" in said


@pytest.mark.parametrize("role", ["generator", "classifier"])
def test_channels_first_are_refused_or_taken_by_a_flag(role: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    is_generator = role == "generator"
    image = lambda z: tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))  # noqa: E731
    turned = lambda z: {"image": tf.transpose(image(z), [0, 3, 1, 2])}  # noqa: E731
    card = {"image_range": [-1, 1], "prior": "normal"}
    toy.save_signature(tmp_path / "g", turned if is_generator else lambda z: {"image": image(z)}, spec("z", None, 6), card=card)
    card = {"labels": ["red", "green", "blue"], "image_range": [-1, 1], "output": "logits"}
    axes, shape = ([1, 2], [None, 8, 8, 3]) if is_generator else ([2, 3], [None, 3, 8, 8])
    toy.save(tmp_path / "c", lambda x: 8.0 * tf.reduce_mean(x, axes), shape, card)
    command = ["--label=red", "--generator=g", "--classifier=c"]
    said = refused(["check", *command], capsys)
    assert "channels come first" in said
    assert f"--{role}_layout=channels_first" in said
    main(["check", *command, f"--{role}_layout=channels_first"])
    main(["sample", *command, f"--{role}_layout=channels_first", *QUICK, "--out=run"])
    record = json.loads(Path("run/run.json").read_text())
    assert record["generator"]["image_shape"] == [8, 8, 3]


def test_grey_images_without_their_channel_axis(tmp_path: Path) -> None:
    fn = lambda z: {"image": tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 16, 12]))}  # noqa: E731
    generator = load_generator(toy.save_signature(tmp_path / "g", fn, spec("z", None, 6)))
    assert generator.image_shape == (16, 12, 1)


def test_an_image_of_many_channels_is_refused(tmp_path: Path) -> None:
    fn = lambda z: {"image": tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 4, 4, 12]))}  # noqa: E731
    with pytest.raises(UserError, match=r"with 1, 3 or 4 channels, got an output \[\?, 4, 4, 12\]"):
        load_generator(toy.save_signature(tmp_path / "g", fn, spec("z", None, 6)))


def test_a_switch_is_off(tmp_path: Path) -> None:
    """A placeholder is_training, as old TF1 graphs have it, gets False."""

    def fn(z: tf.Tensor, is_training: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))
        return {"image": tf.where(is_training, tf.zeros_like(image), image)}

    folder = toy.save_signature(tmp_path / "g", fn, spec("z", None, 6), spec("is_training", dtype=tf.bool))
    assert np.ptp(load_generator(folder)(tf.ones([1, 6]) * tf.range(6.0)[None])) > 0.5


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("truncation_psi", [], tf.float32),
        ("psi", [None, 1], tf.float32),
        ("alpha", [None, 1], tf.float32),
        ("seed", [], tf.int32),
        ("seed", [2], tf.int32),
        ("input_7", [], tf.float32),
        ("input_7", [2], tf.int32),
    ],
    ids=str,
)
def test_a_setting_next_to_z_is_not_mistaken_for_the_class(
    name: str, shape: list[int | None], dtype: tf.DType, tmp_path: Path
) -> None:
    module = tf.Module()
    fn = tf.function(
        lambda **inputs: {"image": coloured(inputs["z"], inputs["z"][:, :3]) * tf.cast(tf.size(inputs[name]), tf.float32)}
    )
    concrete = fn.get_concrete_function(z=spec("z", None, SIZE), **{name: spec(name, *shape, dtype=dtype)})
    tf.saved_model.save(module, str(tmp_path / "g"), signatures={"serving_default": concrete})
    with pytest.raises(UserError, match="neither a latent point nor a class; export it with a fixed value") as error:
        load_generator(tmp_path / "g", num_classes=NUM_CLASSES)
    assert "number of classes" not in str(error.value)


def test_a_name_takes_precedence_over_a_width(tmp_path: Path) -> None:
    """The single coordinate next to an input named label is the latent point."""
    module = tf.Module()

    def fn(input_1: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": coloured(tf.tile(input_1, [1, SIZE]), label)}

    concrete = tf.function(fn).get_concrete_function(input_1=spec("input_1", None, 1), label=spec("label", None, NUM_CLASSES))
    tf.saved_model.save(module, str(tmp_path / "g"), signatures={"serving_default": concrete})
    generator = load_generator(tmp_path / "g")
    assert generator.latent_dim == 1
    check_classes(generator)
