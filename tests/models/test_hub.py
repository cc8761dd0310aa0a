"""Every family of public models, from its real handle and TF-Hub's cache to images; nothing is downloaded."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import standins, toy
from tfgradgen.cli import load
from tfgradgen.cli.commands import main
from tfgradgen.cli.load import Loaded, load_models
from tfgradgen.cli.model_options import ModelOptions
from tfgradgen.cli.options import parse_sample
from tfgradgen.diagnostics.model_checks import NUM_CHECKED, likelihood_gradient
from tfgradgen.posterior import ClassPosterior

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_runs")]

DEEPMIND, GOOGLE = "https://tfhub.dev/deepmind", "https://tfhub.dev/google"
MOBILENET = f"{GOOGLE}/imagenet/mobilenet_v2_100_224/classification/5"
BIGBIGAN = f"{DEEPMIND}/bigbigan-resnet50/1"
YAMNET = f"{GOOGLE}/yamnet/1"

# Handle -> further flags, and what the record must say about it.
GENERATORS = {  # one of each family: test_standins lists those that differ only in size
    f"{DEEPMIND}/biggan-128/2": (["--truncation=0.5"], {"prior": "truncated_normal", "truncation": 0.5, "latent_dim": 120}),
    f"{DEEPMIND}/biggan-deep-128/1": (["--generator_class=latent"], {"generator_class": "latent", "latent_dim": 1128}),
    BIGBIGAN: ([], {"prior": "normal", "latent_dim": 120, "image_range": [-1, 1], "signature": "generate"}),
    f"{GOOGLE}/progan-128/1": ([], {"prior": "normal", "latent_dim": 512, "image_range": [0, 1]}),
    f"{GOOGLE}/compare_gan/model_1_celebahq128_resnet19/1": (
        [],
        {"prior": "uniform", "latent_dim": 128, "image_range": [0, 1]},
    ),
    f"{GOOGLE}/compare_gan/s3gan_20_128x128/1": (
        [],
        {"generator_class": "target", "latent_dim": 120, "tags": ["bsNone", "gen"]},
    ),
    f"{GOOGLE}/compare_gan/ssgan_128x128/1": (["--generator_class=uniform"], {"latent_dim": 121, "image_range": [0, 1]}),
}
CLASSIFIERS = {
    f"{GOOGLE}/imagenet/inception_v3/classification/5": ("goldfish", {"image_size": [299, 299], "image_range": [0, 1]}),
    f"{GOOGLE}/efficientnet/b0/classification/1": ("n01443537", {"image_size": [224, 224], "output": "logits"}),
    f"{GOOGLE}/bit/m-r50x1/ilsvrc2012_classification/1": ("goldfish", {"image_range": [0, 1], "output": "logits"}),
    f"{GOOGLE}/aiy/vision/classifier/birds_V1/1": (7, {"image_size": [224, 224], "output": "probabilities"}),
}
STEPS = ["--kernel=mala", "--num_chains=2", "--num_results=3", "--num_burnin_steps=2", "--init=prior"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return TF-Hub's cache with a copy of each model below."""
    folder = tmp_path_factory.mktemp("hub")
    for handle in (*GENERATORS, *CLASSIFIERS, MOBILENET, YAMNET):
        standins.cached_copy(handle, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def partners() -> Iterator[None]:
    """Load each model once: one classifier is the partner of all generators, and one generator that of all classifiers."""
    loaded = dict[str, Any]()

    def once(load_fn: Any) -> Any:
        def load_once(*handle: Any, **settings: Any) -> Any:
            key = repr((load_fn.__name__, handle, settings))
            return loaded.get(key) or loaded.setdefault(key, load_fn(*handle, **settings))

        return load_once

    with pytest.MonkeyPatch.context() as patch:
        for load_fn in (load.load_generator, load.load_classifier):
            patch.setattr(load, load_fn.__name__, once(load_fn))
        yield


@pytest.fixture(autouse=True)
def offline(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(cache))
    monkeypatch.chdir(tmp_path)


def check_gradient(flags: dict[str, object]) -> Loaded:
    """Compare the slope of log p(class | g(z)) in four directions with central differences, all by the function that a run
    evaluates. The coordinate that picks a class, where the density jumps, is not changed."""
    options = parse_sample({"kernel": "mala", **flags})
    loaded = load_models(options.models)
    (target,) = loaded.targets(options.label)
    posterior = ClassPosterior.of(loaded.networks(target), target.index)
    evaluate = partial(likelihood_gradient(posterior.networks, 1.0, False), posterior.label)
    z = posterior.sample_prior(NUM_CHECKED, tf.constant([1, 2]))
    smooth = tf.one_hot([z.shape[1] - 1], z.shape[1], 0.0, 1.0) if loaded.generator.generator_class == "uniform" else 1.0
    direction = tf.math.l2_normalize(smooth * tf.random.stateless_normal(z.shape, [3, 4]), -1)
    step = 0.02
    ends = [evaluate(z + sign * step * direction)[0].numpy() for sign in (1, -1)]
    value, gradient = (t.numpy() for t in evaluate(z))
    slope = (gradient * direction.numpy()).sum(-1)
    # A float32 value is accurate to a few units in the last place; the third derivative adds to the error.
    tolerance = 2e-2 * np.linalg.norm(gradient, axis=-1) + 8 * np.spacing(np.abs(value)) / step
    assert np.all(np.abs((ends[0] - ends[1]) / (2 * step) - slope) < tolerance)
    assert np.all(np.linalg.norm(gradient, axis=-1) > 0)
    return loaded


def sampled(loaded: Loaded, label: object, *flags: str) -> dict:
    """Return the record of five mala steps with the models `loaded`; the images in its grid must differ."""

    def load_again(options: ModelOptions, gradient_precision: str) -> Loaded:
        assert options == loaded.options, "what the flags ask for is what was loaded: once is enough"
        return loaded

    models = [f"--generator={loaded.options.generator}", f"--classifier={loaded.options.classifiers[0]}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfgradgen.cli.sample.load_models", load_again)
        main(["sample", f"--label={label}", *models, *STEPS, "--out=run", *flags])
    with Image.open("run/grid.png") as grid:
        assert np.asarray(grid).std() > 5
    with np.load("run/samples.npz") as samples:
        assert samples["z"].shape[:2] == (3, 2)
        stored = samples[loaded.generator.medium.kind]
        assert not np.array_equal(stored[0], stored[1])
    return json.loads(Path("run/run.json").read_text())


@pytest.mark.parametrize("handle", GENERATORS)
def test_each_generator_gives_images_of_a_class(handle: str) -> None:
    flags, expected = GENERATORS[handle]
    given = dict(flag.lstrip("-").split("=") for flag in flags)
    given = {name: float(value) if name == "truncation" else value for name, value in given.items()}
    loaded = check_gradient({"label": "goldfish", "generator": handle, "classifier": MOBILENET, **given})
    record = sampled(loaded, "goldfish", *flags)
    assert record["generator"].items() >= expected.items()
    assert record["generator"]["assumed"] == []
    assert record["label"] == {"index": 2, "name": "goldfish", "wnid": "n01443537"}, "ImageNet's class 1 is logit 2 of 1001"


@pytest.mark.parametrize("handle", CLASSIFIERS)
def test_each_classifier_guides_a_chain(handle: str) -> None:
    label, expected = CLASSIFIERS[handle]
    record = sampled(check_gradient({"label": label, "generator": BIGBIGAN, "classifier": handle}), label)
    assert record["classifier"].items() >= expected.items()
    assert record["classifier"]["assumed"] == []


def test_a_tagger_of_sounds_guides_a_generator_of_sounds(tmp_path: Path) -> None:
    """YAMNet takes one waveform at a time and scores each class independently."""
    time = tf.range(8000, dtype=tf.float32) / 16000

    tones = tf.sin(6.2832 * tf.constant([[200.0], [700.0], [3000.0]]) * time)

    def sing(z: tf.Tensor) -> tf.Tensor:
        return tf.matmul(0.1 + 0.2 * tf.sigmoid(z), tones)

    singer = toy.save(tmp_path / "singer", sing, [None, 3], {"image_range": [-1, 1], "prior": "normal"})
    record = sampled(check_gradient({"label": "Speech", "generator": str(singer), "classifier": YAMNET}), "Speech")
    assert record["classifier"].items() >= {"output": "scores", "assumed": []}.items()
    assert record["label"]["name"] == "Speech"
