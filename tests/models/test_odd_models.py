"""Models of unusual types, batches, sizes and names are used as they are, or refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.hostile import edit, save_v1
from tfgradgen.core.checks import UserError
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.generator import load_generator

Z = tf.random.stateless_normal([3, 4], [1, 2])


def spec(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def image_of(z: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.tanh(z), [-1, 2, 2, 1])


def value_and_slope(fn: Any, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = fn(x)
    return value, tape.gradient(value, x)


@pytest.mark.parametrize("dtype", [tf.float64, tf.float16])
def test_latent_points_of_other_precisions(dtype: tf.DType, tmp_path: Path) -> None:
    folder = toy.save_signature(tmp_path / "g", lambda z: {"image": image_of(z)}, spec("z", None, 4, dtype=dtype))
    value, slope = value_and_slope(load_generator(folder, image_range=(-1, 1)), Z)
    assert (value.dtype, slope.dtype) == (tf.float32, tf.float32)
    expected = value_and_slope(image_of, Z)
    np.testing.assert_allclose(value, expected[0], atol=2e-3)
    np.testing.assert_allclose(slope, expected[1], atol=2e-3)


@pytest.mark.parametrize(("dtype", "mode"), [(tf.int64, "target"), (tf.int64, "uniform"), (tf.float64, "latent")])
def test_classes_of_other_types(dtype: tf.DType, mode: str, tmp_path: Path) -> None:
    """Class numbers or one-hot rows may have 64 bits."""
    takes_numbers = dtype.is_integer
    shift = (lambda y: tf.cast(y, tf.float32)[:, None]) if takes_numbers else (lambda y: tf.cast(y[:, 1:], tf.float32))
    classes = spec("y", None, dtype=dtype) if takes_numbers else spec("y", None, 2, dtype=dtype)
    folder = toy.save_signature(
        tmp_path / "g",
        lambda z, y: {"image": image_of(z + shift(y))},
        spec("z", None, 4),
        classes,
        card={"labels": ["a", "b"], "image_range": [-1, 1]},
    )
    generator = load_generator(folder, generator_class=mode)
    z = tf.random.stateless_normal([3, generator.latent_dim], [3, 4])
    value, slope = value_and_slope(generator, z)
    assert np.all(np.abs(slope[:, :4]) > 0)
    share = {"uniform": tf.cast(z[:, 4:] > 0, tf.float32), "latent": tf.nn.softmax(8 * z[:, 4:])[:, 1:]}
    np.testing.assert_allclose(value, image_of(z[:, :4] + share.get(mode, 0.0)), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_classifier_of_a_fixed_batch_takes_any(batch: int, tmp_path: Path) -> None:
    weights = tf.random.stateless_normal([12, 5], [5, 6])
    logits = lambda x: tf.matmul(tf.reshape(x, [-1, 12]), weights)  # noqa: E731
    fixed = lambda x: {"logits": tf.ensure_shape(logits(x), [batch, 5])}  # noqa: E731
    classifier = load_classifier(
        toy.save_signature(tmp_path / "c", fixed, spec("x", batch, 2, 2, 3)), image_range=(-1, 1), output="logits"
    )
    image = tf.random.stateless_uniform([6, 2, 2, 3], [7, 8], -1, 1)
    for ours, expected in zip(value_and_slope(classifier, image), value_and_slope(logits, image), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "image", "text"),
    [
        (
            [None, 2, 2, 1],
            [3, 2, 2, 3],
            r"images of 1 channel, as in its input float32 \[\?, 2, 2, 1\], got 3; give channels='grey'",
        ),
        ([None, 2, 2, 4], [3, 8, 8, 3], r"images of 4 channels, .*, got 3"),
        ([None, 2, 2, 3], [3, 8, 8, 4], r"images of 3 channels, .*, got 4"),
        ([None, 2, 2, 3], [3, 8000], r"images \[batch, height, width, channels\], got shape \(3, 8000\)"),
        ([None], [3, 8, 8, 3], r"sounds \[batch, samples\], got shape \(3, 8, 8, 3\)"),
    ],
)
def test_a_classifier_shown_what_it_does_not_take(shape: list[int | None], image: list[int], text: str, tmp_path: Path) -> None:
    """Coloured images instead of grey ones, an alpha channel, and sounds give errors."""
    mean = (lambda x: tf.reduce_mean(x, [1, 2])) if len(shape) == 4 else (lambda x: tf.stack([[tf.reduce_mean(x), 0.0]]))
    folder = toy.save_signature(tmp_path / "c", lambda x: {"logits": mean(x)}, spec("x", *shape))
    classifier = load_classifier(folder, output="logits")
    with pytest.raises(UserError, match=text) as error:
        classifier(tf.zeros(image))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (lambda x: x, "logits"),
        (tf.nn.softmax, "probabilities"),
        (tf.sigmoid, "scores"),
        (lambda x: tf.sigmoid(x[:, :1]), "probabilities"),
        (lambda x: tf.sigmoid(x) + 0.5, "logits"),
    ],
    ids=["logits", "softmax", "sigmoid", "one sigmoid", "beyond 1"],
)
def test_the_kind_of_output_is_guessed_from_a_look(outputs: Any, expected: str, tmp_path: Path) -> None:
    weights = tf.random.stateless_normal([12, 5], [5, 6])
    fn = lambda x: {"y": outputs(tf.matmul(tf.reshape(x, [-1, 12]), weights))}  # noqa: E731
    classifier = load_classifier(toy.save_signature(tmp_path / "c", fn, spec("x", None, 2, 2, 3)))
    assert classifier.output == expected
    assert "output" in classifier.assumed


def test_what_is_empty_or_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    empty = toy.save_signature(tmp_path / "g", lambda z: {"image": image_of(z)[:, :0]}, spec("z", None, 4))
    with pytest.raises(UserError, match=r"at least one pixel or score, got an output of shape \(16, 0, 2, 1\)"):
        load_generator(empty)
    mean = lambda x: {"logits": tf.reduce_mean(x, [1, 2])}  # noqa: E731
    wide = toy.save_signature(tmp_path / "c", mean, spec("x", None, None, None, 3))
    with pytest.raises(UserError, match=r"at most 16,777,216 values, got 1000000 x 1000000 x 3; give another image_size"):
        load_classifier(wide, image_size=(10**6, 10**6))
    deep = toy.save_signature(tmp_path / "d", mean, spec("x", None, None, None, 10**9))
    with pytest.raises(UserError, match="got 64 x 64 x 1000000000"):
        load_classifier(deep)


NAME = "\x1b[31mred\r\u202e"
PRINTED = r"\x1b[31mred\r\u202e"


def test_names_in_a_model_steer_no_terminal(tmp_path: Path) -> None:
    """Listed signatures, inputs, outputs and tags are escaped; the model still works with its own names."""
    folder = save_v1(tmp_path / "g", finish=lambda z, image: image_of(image))

    def rename(proto: Any) -> None:
        meta = proto.meta_graphs[0]
        signature = meta.signature_def.pop("default")
        signature.inputs[NAME].CopyFrom(signature.inputs.pop("z"))
        signature.outputs[NAME].CopyFrom(signature.outputs.pop("default"))
        meta.signature_def[NAME].CopyFrom(signature)
        meta.meta_info_def.tags.append(NAME)

    edit(folder, rename)
    generator = load_generator(folder)
    assert generator(Z).shape == (3, 2, 2, 1)
    listed = f"{PRINTED} ({PRINTED} float32 [?, 4]) -> ({PRINTED} float32 [?, 2, 2, 1])"
    assert (generator.signature, generator.tags, generator.signatures) == (PRINTED, (PRINTED,), (listed,))
    for load_fn, settings, text in (
        (load_generator, {"tags": ("x",)}, f"tags: expected {PRINTED}, got x"),
        (load_generator, {"signature": "x"}, f"got signatures {listed}"),
        (load_generator, {"signature": f"{NAME}:x"}, f"signature {PRINTED}: expected an output x, got {PRINTED};"),
        (load_classifier, {}, f"signature {PRINTED}: expected the inputs and outputs of a classifier, got outputs {PRINTED} "),
        (load_classifier, {"signature": NAME}, f"signature {PRINTED}: expected the inputs and outputs of a classifier"),
    ):
        with pytest.raises(UserError, match=re.escape(text)) as error:
            load_fn(folder, **settings)
        assert str(error.value).isprintable()


def test_a_discriminator_of_two_functions_is_chosen_by_its_card(tmp_path: Path) -> None:
    module = tf.Module()
    for name, sign in (("right", 1.0), ("wrong", -1.0)):
        fn = lambda x, sign=sign: {"logits": sign * tf.reduce_mean(x, [1, 2])[:, :2]}  # noqa: E731
        setattr(module, name, tf.function(fn, input_signature=[spec("x", None, 2, 2, 3)]))
    tf.saved_model.save(module, str(tmp_path), signatures={"right": module.right, "wrong": module.wrong})
    card = {"image_range": [-1, 1], "output": "logits", "labels": ["generated", "natural"]}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"signatures right .*add signature: "):
        load_discriminator(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(card | {"signature": "right"}))
    image = tf.random.stateless_uniform([2, 2, 2, 3], [0, 1])
    means = tf.reduce_mean(image, [1, 2])
    np.testing.assert_allclose(natural_log_odds(load_discriminator(tmp_path))(image), means[:, 1] - means[:, 0], rtol=1e-5)


def test_a_discriminator_of_one_output_names_it(tmp_path: Path) -> None:
    toy.save(tmp_path / "d", lambda x: tf.reduce_mean(x, [1, 2, 3])[:, None], [None, 2, 2, 3])
    with pytest.raises(UserError, match="a classifier with a label 'natural', got negative, positive"):
        load_discriminator(tmp_path / "d")
    (tmp_path / "d" / "model.json").write_text(json.dumps({"labels": ["natural"]}))
    assert [label.name for label in load_discriminator(tmp_path / "d").labels] == ["not natural", "natural"]


def without_argument_names(proto: Any) -> None:
    for node in proto.meta_graphs[0].object_graph_def.nodes:
        if node.WhichOneof("kind") == "function":
            node.function.function_spec.ClearField("fullargspec")


def with_signatures_elsewhere(proto: Any) -> None:
    nodes = proto.meta_graphs[0].object_graph_def.nodes
    for child in nodes[0].children:
        if child.local_name == "signatures":
            child.node_id = 0


@pytest.mark.parametrize("change", [without_argument_names, with_signatures_elsewhere])
def test_a_damaged_object_graph_is_one_line(change: Any, tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "model", lambda z: tf.tanh(tf.reshape(tf.tile(z, [1, 2]), [-1, 2, 2, 3])), [None, 6])
    edit(folder, change)
    with pytest.raises(UserError, match=r"expected .*got .*; "):
        load_generator(folder)
