"""Models that contain little information: which function is used, what is guessed, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import standins, toy
from tests.support.hostile import save_v1
from tfgradgen.core.checks import UserError
from tfgradgen.diagnostics.preflight import value_and_gradient
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.discriminator import load_discriminator, natural_log_odds
from tfgradgen.models.generator import load_generator
from tfgradgen.models.loading.families import resolve_role
from tfgradgen.models.loading.metadata import Label
from tfgradgen.models.loading.roles import bind_signature
from tfgradgen.models.loading.saved_model import open_saved_model

DEEPMIND, GOOGLE = "https://tfhub.dev/deepmind", "https://tfhub.dev/google"
Z = tf.random.stateless_normal([3, 512], [5, 6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return stand-ins with names unlike any handle, so that only their signatures identify them."""
    base = tmp_path_factory.mktemp("foreign")
    for name, handle in {
        "big": f"{DEEPMIND}/biggan-128/2",
        "bi": f"{DEEPMIND}/bigbigan-resnet50/1",
        "compare": f"{GOOGLE}/compare_gan/model_1_celebahq128_resnet19/1",
        "s3": f"{GOOGLE}/compare_gan/s3gan_20_128x128/1",
        "pro": f"{GOOGLE}/progan-128/1",
        "birds": f"{GOOGLE}/aiy/vision/classifier/birds_V1/1",
        "inception": f"{GOOGLE}/imagenet/inception_v3/classification/5",
    }.items():
        standins.build(handle, base / name)
    standins.progan_with_while(base / "while")
    standins.progan_with_cond(base / "cond")
    return base


def test_signatures_alone_identify_a_family(folder: Path) -> None:
    big = load_generator(folder / "big")
    assert (big.prior, big.image_range, big.truncation, big.generator_class) == ("truncated_normal", (-1, 1), 1.0, "target")
    assert big.assumed == ("family biggan",)
    bi = load_generator(folder / "bi")
    assert (bi.signature, bi.latent_dim, bi.assumed) == ("generate", 120, ("family bigbigan",)), "its default is the encoder"
    compare = load_generator(folder / "compare")
    assert (compare.prior, compare.assumed) == ("uniform", ("family compare_gan",))
    assert compare(Z[:, :128]).shape == (3, 128, 128, 3), "of a model that takes 64 at a time"


def test_unknown_settings_are_guessed_and_recorded(folder: Path) -> None:
    pro = load_generator(folder / "pro")
    assert (pro.image_range, pro.assumed) == ((0, 1), ("prior", "image_range"))
    birds = load_classifier(folder / "birds")
    assert (birds.output, birds.num_classes) == ("probabilities", 965)
    assert birds.assumed == ("image_range", "output", "labels")
    inception = load_classifier(folder / "inception")
    assert (inception.image_size, inception.image_range, inception.output) == ((224, 224), (0, 1), "logits")
    assert inception.labels[2].name == "goldfish"
    assert inception.labels[0].background
    assert inception.assumed == ("image_size", "image_range", "output", "labels")


def test_what_the_caller_says_wins(folder: Path, tmp_path: Path) -> None:
    pro = load_generator(folder / "pro", image_range=(-1, 1), prior="uniform")
    assert (pro.image_range, pro.prior, pro.assumed) == ((-1, 1), "uniform", ())
    upsampled = load_generator(folder / "bi", signature="generate:upsampled")
    assert upsampled.image_shape == (256, 256, 3)
    s3 = load_generator(folder / "s3", tags=("gen", "bs64"))
    assert s3.tags == ("bs64", "gen")
    assert load_generator(folder / "pro", tags=("none",)).tags == (), "as the message of a wrong choice has it"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"bird {k}" for k in range(965)))
    birds = load_classifier(folder / "birds", labels=str(names), image_size=(200, 210), image_range=(0, 1), output="logits")
    assert (birds.labels[3].name, birds.image_size, birds.assumed) == ("bird 3", (200, 210), ())


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("birds", {}, "latent points to images, got signatures .*image_classifier; give signature=NAME"),
        ("bi", {"signature": "encode"}, "the inputs and outputs of a generator, got .*z_mean"),
        ("bi", {"signature": "nothing"}, "one of the model's signatures, got signatures .*generate"),
        ("bi", {"signature": "generate:other"}, "an output other, got default, upsampled"),
        ("bi", {"generator_class": "uniform"}, "takes no class"),
        ("bi", {"truncation": 0.5}, "has no such input"),
        ("s3", {"tags": ("x",)}, "tags: expected .*bsNone,gen.*got x"),
        ("s3", {"generator_class": "latent"}, "mixes classes"),
        ("big", {"truncation": 1.5}, "truncation: expected a number above 0, at most 1, got 1.5"),
        ("big", {"truncation": True}, "truncation: expected a number above 0, at most 1, got True"),
        ("big", {"truncation": float("nan")}, "truncation: expected a number above 0, at most 1, got nan"),
        ("pro", {"image_range": (0, float("inf"))}, "image_range: expected two finite numbers"),
        ("pro", {"tags": ("x",)}, "tags: expected none, got x"),
        ("pro", {"prior": "beta"}, "one of normal, truncated_normal, uniform"),
        ("pro", {"priors": "normal"}, "did you mean prior"),
        ("pro", {"latent_dim": 100}, "latent_dim: expected 512, as in its signature, got 100"),
    ],
)
def test_what_cannot_be_understood_lists_what_there_is(folder: Path, name: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text) as error:
        load_generator(folder / name, **settings)
    assert "\n" not in str(error.value)


def test_a_class_goes_by_its_wordnet_id_or_name(folder: Path) -> None:
    big = load_generator(folder / "big")
    z = Z[:, :120]
    goldfish = big.for_label(Label("anything", "n01443537"))
    np.testing.assert_array_equal(goldfish(z), big.for_label(Label("goldfish"))(z))
    assert not np.array_equal(goldfish(z), big.for_label(Label("orange"))(z))
    with pytest.raises(UserError, match="a class of the generator, got pizza & !orange"):
        big.for_label(Label("pizza & !orange"))
    uniform = load_generator(folder / "big", generator_class="uniform")
    assert uniform.for_label(Label("pizza & !orange")) is uniform


def test_truncation_scales_the_latent_point(folder: Path) -> None:
    z = Z[:, :120]
    wide, narrow = (load_generator(folder / "big", truncation=t)(z).numpy() for t in (1.0, 0.1))
    assert narrow.std(0).mean() < 0.5 * wide.std(0).mean()


@pytest.mark.parametrize("name", ["pro", "cond", "while", "big"])
def test_freezing_keeps_the_images_and_gives_gradients(folder: Path, name: str) -> None:
    """Images are compared with TensorFlow's loader, which cannot differentiate a v1 while; slopes with finite differences."""
    generator = load_generator(folder / name, image_range=(-1, 1))
    z = Z[:, : generator.latent_dim]
    theirs = tf.saved_model.load(str(folder / name), tags=[]).signatures["default"]
    if name == "big":
        given = {"y": tf.one_hot([0] * 3, 1000), "truncation": tf.constant(1.0), "z": generator_input(z)}
    else:
        given = {next(iter(theirs.structured_input_signature[1])): z}
    # TensorFlow fuses layers of constants, but not of variables: the last few bits differ.
    np.testing.assert_allclose(generator(z), theirs(**given)["default"], atol=2e-6)

    @tf.function(autograph=False)
    def slope(z: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(z)
            total = tf.reduce_sum(generator(z) ** 2, [1, 2, 3])
        return total, tape.gradient(total, z)

    direction = tf.math.l2_normalize(tf.random.stateless_normal(z.shape, [7, 8]), -1)
    value, gradient = slope(z)
    step = 0.03
    difference = (slope(z + step * direction)[0] - slope(z - step * direction)[0]) / (2 * step)
    # Sums of 5e4 float32 squares have a relative error of about 1e-6.
    tolerance = 2e-2 * np.linalg.norm(gradient, axis=-1) + 2e-6 * value.numpy() / step
    assert np.all(np.abs(difference - tf.reduce_sum(gradient * direction, -1)) < tolerance)
    assert np.all(np.linalg.norm(gradient, axis=-1) > 0)


def generator_input(z: tf.Tensor) -> tf.Tensor:
    from tfgradgen.models.priors import TRANSPORTS

    return TRANSPORTS["truncated_normal"](z)


def test_an_adversary_is_a_discriminator(folder: Path) -> None:
    image = tf.random.stateless_uniform([3, 128, 128, 3], [1, 2], -1, 1)
    for name in ("bi", "compare", "s3"):
        discriminator = load_discriminator(folder / name)
        odds = natural_log_odds(discriminator)(image)
        assert odds.shape == (3,)
        assert np.ptp(odds) > 0
    theirs = open_saved_model(folder / "bi").function("discriminate")({"x": image, "z": tf.zeros([3, 120])})
    np.testing.assert_allclose(natural_log_odds(load_discriminator(folder / "bi"))(image), theirs["score_x"], rtol=1e-5)
    with pytest.raises(UserError, match="a label 'natural'"):
        load_discriminator(folder / "birds")


def test_a_score_that_is_a_probability_becomes_log_odds(folder: Path, tmp_path: Path) -> None:
    """S3GAN's discriminator ends in a sigmoid, which rounds to 0 or 1 if it is confident."""
    image = tf.random.stateless_uniform([3, 128, 128, 3], [1, 2], -1, 1)
    disc = open_saved_model(folder / "s3", prefer="disc").function("default")
    prob = disc({"images": (image + 1) / 2, "labels": tf.zeros([3], tf.int32)})["prediction"].numpy()[:, 0].astype(float)
    odds = natural_log_odds(load_discriminator(folder / "s3"))(image)
    np.testing.assert_allclose(odds, np.log(prob / (1 - prob)), rtol=1e-4)
    module = tf.Module()
    score = lambda images, labels: {"prediction": tf.clip_by_value(1e9 * images[:, 0, 0, :1], 0, 1)}  # noqa: E731
    specs = [tf.TensorSpec([None, 1, 1, 3], name="images"), tf.TensorSpec([None], tf.int32, name="labels")]
    module.score = tf.function(score, input_signature=specs)
    tf.saved_model.save(module, str(tmp_path / "sure"), signatures={"default": module.score})
    sure = natural_log_odds(load_discriminator(tmp_path / "sure"))(tf.constant([[[[-1.0] * 3]], [[[1.0] * 3]]]))
    np.testing.assert_allclose(sure, [-87.3, 16.6], atol=0.1)
    logits = natural_log_odds(load_discriminator(tmp_path / "sure", output="logits"))(
        tf.constant([[[[-1.0] * 3]], [[[1.0] * 3]]])
    )
    np.testing.assert_allclose(logits, [0, 1])


def test_a_family_serves_in_its_own_roles_only(folder: Path) -> None:
    """BigBiGAN's encoder looks like a classifier with 120 outputs."""
    with pytest.raises(UserError, match="expected a classifier, got a model of the family bigbigan, which has none"):
        load_classifier(folder / "bi")
    opened = open_saved_model(folder / "pro")
    opened.handle = f"{GOOGLE}/imagenet/mobilenet_v2_100_160/classification/5"
    with pytest.raises(UserError, match="expected a generator, got a model of the family imagenet, which has none"):
        bind_signature(opened, "generator", resolve_role(opened, "generator")[0])
    assert load_classifier(folder / "bi", signature="encode:z_mean", output="logits").num_classes == 120, "who insists"


def test_an_encoder_finds_the_way_back(folder: Path) -> None:
    generator = load_generator(folder / "bi")
    z = Z[:1, :120]
    back = generator.encode_fn(generator(z)).numpy()[0]
    assert np.corrcoef(back, z[0])[0, 1] > 0.9
    assert np.corrcoef(back, Z[1, :120])[0, 1] < 0.5, "and to no other point"
    assert load_generator(folder / "pro").encode_fn is None


def test_a_model_of_two_functions_needs_a_choice(tmp_path: Path) -> None:
    module = tf.Module()
    spec = [tf.TensorSpec([None, 4], tf.float32, name="z")]
    image_of = lambda k: tf.function(lambda z: {"p": tf.reshape(tf.tanh(k * z), [-1, 2, 2, 1])}, input_signature=spec)  # noqa: E731
    module.a, module.b = image_of(1.0), image_of(2.0)
    tf.saved_model.save(module, str(tmp_path / "two"), signatures={"a": module.a, "b": module.b})
    with pytest.raises(UserError, match=r"one signature from latent points to images, got signatures a .*; b "):
        load_generator(tmp_path / "two")
    chosen = load_generator(tmp_path / "two", signature="b", image_range=(-1, 1))
    np.testing.assert_allclose(chosen(Z[:, :4]), tf.reshape(tf.tanh(2 * Z[:, :4]), [-1, 2, 2, 1]))


def test_a_dictionary_of_one_output_is_that_output(tmp_path: Path) -> None:
    pixels = lambda z: {"a": tf.reshape(z, [-1, 2, 2, 1])}  # noqa: E731
    generator = load_generator(toy.save(tmp_path / "g", pixels, [None, 4], {"image_range": [-1, 1]}))
    np.testing.assert_allclose(generator(Z[:, :4]), pixels(Z[:, :4])["a"])


@pytest.mark.parametrize(
    ("handle", "role", "expected"),
    [
        ("deepmind/bigbigan/tensorFlow1/resnet50/1", "generator", ("generate", None)),
        ("https://tfhub.dev/deepmind/bigbigan-revnet50x4/1", "discriminator", ("discriminate", None)),
        ("deepmind/biggan/tensorFlow1/deep-256/1", "generator", ("default", None)),
        ("google/progan-128/tensorFlow1/progan-128/1", "generator", ("default", None)),
        ("https://tfhub.dev/google/compare_gan/model_15_cifar10_resnet_cifar/1", "generator", ("generator", None)),
        ("google/inception-v3/tensorFlow2/classification/2", "classifier", ("", 299)),
        ("https://tfhub.dev/google/imagenet/mobilenet_v2_100_160/classification/5", "classifier", ("", 160)),
        ("google/mobilenet-v2/tensorFlow2/100-96-classification/2", "classifier", ("", 96)),
        ("https://tfhub.dev/google/imagenet/resnet_v2_50/classification/5", "classifier", ("", 224)),
        ("google/bit/tensorFlow2/m-r50x1-ilsvrc2012-classification/1", "classifier", ("", 224)),
        ("google/aiy/tensorFlow1/vision-classifier-birds-v1/1", "classifier", ("", None)),
        ("google/yamnet/tensorFlow2/yamnet/1", "classifier", ("", None)),
    ],
)
def test_handles_of_both_hubs_name_a_family(folder: Path, handle: str, role: str, expected: tuple[str, int | None]) -> None:
    opened = open_saved_model(folder / "pro")
    opened.handle = handle
    use, assumed = resolve_role(opened, role)
    assert ((use.signature, use.image_size), assumed, use.is_known) == (expected, [], True)


def area(image: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ResizeArea(images=tf.reshape(image, [-1, 2, 2, 1]), size=[2, 2])


def area_in_a_loop(z: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    tf.compat.v1.disable_control_flow_v2()
    try:
        return area(tf.compat.v1.while_loop(lambda k, x: k < 2, lambda k, x: (k + 1, 1.5 * x), (0, image))[1])
    finally:
        tf.compat.v1.enable_control_flow_v2()


@pytest.mark.parametrize("kind", ["tf2", "tf1", "loop"])
def test_an_operation_without_gradient_is_named_and_forward_passes_work(kind: str, tmp_path: Path) -> None:
    if kind == "tf2":
        folder = toy.save(tmp_path / "g", lambda z: area(tf.tanh(z)), [None, 4])
    else:
        folder = save_v1(tmp_path / "g", finish=area_in_a_loop if kind == "loop" else lambda z, image: area(image))
    generator = load_generator(folder, image_range=(-1, 1))
    assert np.ptp(generator(Z[:, :4])) > 0
    fn = tf.function(lambda z: value_and_gradient(lambda z: tf.reduce_sum(generator(z), [1, 2, 3]), z), autograph=False)
    with pytest.raises(UserError, match=r"a gradient of .*, got the operation ResizeArea, which has none; use kernel="):
        fn(Z[:, :4])
