"""The stand-ins have the interfaces of the real hub modules, which are listed here independently, and behave like models."""

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.support import standins

D, G = "https://tfhub.dev/deepmind/", "https://tfhub.dev/google/"
BIGBIGAN, PROGAN, S3GAN = D + "bigbigan-resnet50/1", G + "progan-128/1", G + "compare_gan/s3gan_20_128x128/1"
COMPARE, YAMNET = G + "compare_gan/model_1_celebahq128_resnet19/1", G + "yamnet/1"
ANY = None
LABELS = ("labels", [ANY], tf.int32)


def biggan(size: int, z_dim: int) -> list[Any]:
    return [([], "default", [("z", [ANY, z_dim]), ("y", [ANY, 1000]), ("truncation", [])], [("default", [ANY, size, size, 3])])]


def s3gan(size: int, z_dim: int) -> list[Any]:
    image = [size, size, 3]
    return [
        (["gen", "bsNone"], "default", [("z", [ANY, z_dim]), LABELS], [("generated", [ANY, *image])]),
        (["disc", "bsNone"], "default", [("images", [ANY, *image]), LABELS], [("prediction", [ANY, 1])]),
    ]


def s3gan_fixed(size: int, z_dim: int) -> list[Any]:
    image, labels = [size, size, 3], ("labels", [64], tf.int32)
    return [
        ([], "default", [("z", [64, z_dim]), labels], [("generated", [64, *image])]),
        (["gen", "bs64"], "default", [("z", [64, z_dim]), labels], [("generated", [64, *image])]),
        (["disc", "bs8"], "default", [("images", [8, *image]), ("labels", [8], tf.int32)], [("prediction", [8, 1])]),
    ]


def slim(size: int | None) -> list[Any]:
    return [(None, "serving_default", [("inputs", [ANY, size, size, 3])], [("logits", [ANY, 1001])])]


ENCODER = [("x", [ANY, 256, 256, 3])]
ENCODED = [(name, [ANY, 120]) for name in ("default", "z_sample", "z_mean", "z_stdev")]
SCORES = [(name, [ANY]) for name in ("score_x", "score_z", "score_xz")]
SOUNDS = [("output_0", [ANY, 521]), ("output_1", [ANY, 1024]), ("output_2", [ANY, 64])]
IMAGES = [("images", [ANY, 224, 224, 3])]
# handle: (tags, or None for TF2; signature; inputs with dtype unless float32; outputs)
INTERFACES: dict[str, list[Any]] = {
    D + "biggan-128/2": biggan(128, 120),
    D + "biggan-256/2": biggan(256, 140),
    D + "biggan-512/2": biggan(512, 128),
    D + "biggan-deep-128/1": biggan(128, 128),
    BIGBIGAN: [
        ([], "generate", [("z", [ANY, 120])], [("default", [ANY, 128, 128, 3]), ("upsampled", [ANY, 256, 256, 3])]),
        ([], "encode", ENCODER, [*ENCODED, ("avepool_feat", [ANY, 2048]), ("bn_crelu_feat", [ANY, 4096])]),
        ([], "default", ENCODER, [("default", [ANY, 120])]),
        (["train"], "discriminate", [("x", [ANY, 128, 128, 3]), ("z", [ANY, 120])], SCORES),
    ],
    PROGAN: [([], "default", [("default", [ANY, 512])], [("default", [ANY, 128, 128, 3])])],
    COMPARE: [
        ([], "generator", [("z", [64, 128])], [("default", [64, 128, 128, 3])]),
        ([], "discriminator", [("images", [64, 128, 128, 3])], [("default", [64, 1])]),
    ],
    S3GAN: s3gan(128, 120) + s3gan_fixed(128, 120),
    G + "compare_gan/s3gan_10_256x256/1": s3gan(256, 140),
    G + "compare_gan/ssgan_128x128/1": s3gan(128, 120),
    G + "imagenet/inception_v3/classification/5": slim(None),
    G + "imagenet/mobilenet_v2_100_224/classification/5": slim(224),
    G + "imagenet/resnet_v2_50/classification/5": slim(None),
    G + "efficientnet/b0/classification/1": [
        ([], "default", IMAGES, [("default", [ANY, 1000])]),
        (["train"], "image_classification", IMAGES, [("default", [ANY, 1000])]),
        ([], "image_feature_vector", IMAGES, [("default", [ANY, 1280])]),
    ],
    G + "bit/m-r50x1/ilsvrc2012_classification/1": [
        (None, "serving_default", [("input_1", [ANY, ANY, ANY, 3])], [("output_1", [ANY, 1000])])
    ],
    G + "aiy/vision/classifier/birds_V1/1": [
        ([], "default", IMAGES, [("default", [ANY, 965])]),
        ([], "image_classifier", IMAGES, [("logits", [ANY, 965])]),
    ],
    YAMNET: [(None, "serving_default", [("waveform", [ANY])], SOUNDS)],
}
# They differ from others of their family only in size: their interface is checked, but their networks are not run.
LIKE_OTHERS = {
    *(D + name for name in ("biggan-256/2", "biggan-512/2")),
    *(G + f"compare_gan/{name}/1" for name in ("s3gan_10_256x256", "ssgan_128x128")),
    *(G + f"imagenet/{name}/classification/5" for name in ("inception_v3", "resnet_v2_50")),
}
RUN = [handle for handle in INTERFACES if handle not in LIKE_OTHERS]
GENERATORS = {  # handle: tags, signature, output, range
    **{D + name: ([], "default", "default", (-1, 1)) for name in ("biggan-128/2", "biggan-deep-128/1")},
    BIGBIGAN: ([], "generate", "upsampled", (-1, 1)),
    PROGAN: ([], "default", "default", (0, 1)),
    COMPARE: ([], "generator", "default", (0, 1)),
    S3GAN: (["gen", "bsNone"], "default", "generated", (0, 1)),
}
CLASSIFIERS = [handle for handle in RUN if "classif" in handle]

Load = Callable[..., Any]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    where = tmp_path_factory.mktemp("standins")
    return cache(lambda handle: standins.build(handle, where / handle.removeprefix("https://").replace("/", "_")))


@pytest.fixture(scope="session")
def load(folder_of: Callable[[str], Path]) -> Load:
    """Return the loaded stand-in of (handle, *tags)."""
    return cache(lambda handle, *tags: load_folder(folder_of(handle), tags))


def load_folder(folder: Path, tags: Any = ()) -> Any:
    return tf.saved_model.load(str(folder), tags=list(tags) if (folder / "tfhub_module.pb").exists() else None)


def read(folder: Path) -> saved_model_pb2.SavedModel:
    return saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())


def example(name: str, spec: tf.TensorSpec, seed: int = 1) -> tf.Tensor:
    """Return a valid value for the input `name`, with a batch of four and a width of 224 pixels unless they are fixed."""
    rng = np.random.default_rng(seed)
    shape = [size or (4 if k == 0 else 224) for k, size in enumerate(spec.shape)]
    if name == "waveform":
        return tf.constant(0.3 * rng.standard_normal(32000), tf.float32)
    if name == "y":
        return tf.one_hot(rng.integers(1000, size=shape[0]), 1000)
    if name == "truncation":
        return tf.constant(0.8)
    if spec.dtype == tf.int32:
        return tf.constant(rng.integers(1000, size=shape), tf.int32)
    if len(shape) == 4:
        colours = rng.uniform(0, 1, [shape[0], 1, 1, 3])
        return tf.constant(colours + np.zeros(shape), tf.float32)
    return tf.constant(rng.standard_normal(shape), tf.float32)


def examples(signature: Any, seed: int = 1) -> dict[str, tf.Tensor]:
    return {name: example(name, spec, seed) for name, spec in signature.structured_input_signature[1].items()}


def test_every_standin_is_described_here() -> None:
    assert set(standins.STANDINS) == set(INTERFACES)


@pytest.mark.parametrize("handle", INTERFACES)
def test_interface(handle: str, load: Load, folder_of: Callable[[str], Path]) -> None:
    for tags, name, inputs, outputs in INTERFACES[handle]:
        marker = folder_of(handle) / "tfhub_module.pb"
        assert marker.exists() == (tags is not None)
        model = load(handle, *(tags or []))
        assert callable(model) == (tags is None)
        signature = model.signatures[name]
        given = {key: (spec.shape.as_list(), spec.dtype) for key, spec in signature.structured_input_signature[1].items()}
        assert given == {key: (shape, dtype[0] if dtype else tf.float32) for key, shape, *dtype in inputs}
        returned = {key: (spec.shape.as_list(), spec.dtype) for key, spec in signature.structured_outputs.items()}
        assert returned == {key: (shape, tf.float32) for key, shape in outputs}
        values = signature(**examples(signature)) if handle in RUN else {}
        for key, shape in outputs if values else ():
            assert values[key].shape.is_compatible_with(shape)
            assert np.isfinite(values[key]).all()
            assert np.ptp(values[key].numpy(), axis=0).max() > 1e-4, f"{key} is the same for all inputs"


@pytest.mark.parametrize("handle", RUN)
def test_deterministic(handle: str, load: Load, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    first, again = folder_of(handle), standins.build(handle, tmp_path / "again")
    if (first / "tfhub_module.pb").exists():
        files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
        assert {"saved_model.pb", "variables/variables.index"} <= set(map(str, files))
        assert all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    else:  # TF2 never writes the same bytes twice, but the model computes the same
        _, name, _, outputs = INTERFACES[handle][0]
        old, new = load(handle).signatures[name], load_folder(again).signatures[name]
        np.testing.assert_array_equal(old(**examples(old))[outputs[0][0]], new(**examples(old))[outputs[0][0]])


def test_tags_and_what_a_hub_module_lacks(folder_of: Callable[[str], Path]) -> None:
    pairs = {(kind, f"bs{batch}") for kind in ("gen", "disc") for batch in (8, 16, 32, 64, 128, None)}
    expected = {S3GAN: {(), *pairs}, BIGBIGAN: {(), ("train",)}, PROGAN: {()}}
    for handle, tags in expected.items():
        graphs = read(folder_of(handle)).meta_graphs
        assert {tuple(graph.meta_info_def.tags) for graph in graphs} == tags
        assert not any(graph.HasField("saver_def") for graph in graphs)
        assert not any("init_op" in key or "main_op" in key for graph in graphs for key in graph.collection_def)
        assert (folder_of(handle) / "tfhub_module.pb").read_bytes() == bytes([8, 3])


def test_both_kinds_of_variables_are_there(folder_of: Callable[[str], Path]) -> None:
    for handle, kind in ((D + "biggan-128/2", "VariableV2"), (COMPARE, "VariableV2"), (BIGBIGAN, "VarHandleOp")):
        ops = {node.op for node in read(folder_of(handle)).meta_graphs[0].graph_def.node}
        assert ops & {"VariableV2", "VarHandleOp"} == {kind}


@pytest.mark.parametrize("handle", GENERATORS)
def test_images_vary_and_are_smooth(handle: str, load: Load) -> None:
    tags, name, output, (low, high) = GENERATORS[handle]
    signature = load(handle, *tags).signatures[name]
    inputs = examples(signature)
    key = next(key for key in inputs if key not in ("y", "labels", "truncation"))
    with tf.GradientTape() as tape:
        tape.watch(inputs[key])
        images = signature(**inputs)[output]
        loss = tf.reduce_sum(tf.reduce_mean(images, [1, 2]) * [1.0, 2.0, 3.0])
    assert low <= np.min(images) < low + 0.3 * (high - low)
    assert high >= np.max(images) > high - 0.3 * (high - low)
    assert np.std(images, axis=0).mean() > 0.1 * (high - low)
    assert np.abs(np.diff(images, axis=1)).mean() < 0.03 * (high - low)
    gradient = tape.gradient(loss, inputs[key]).numpy()
    assert np.abs(gradient).mean(1).min() > 1e-4


def changed(signature: Any, output: str, **others: tf.Tensor) -> float:
    """Return the mean difference that the inputs `others` make to the output."""
    inputs = examples(signature)
    return float(tf.reduce_mean(tf.abs(signature(**inputs)[output] - signature(**(inputs | others))[output])))


def test_class_and_truncation_matter(load: Load) -> None:
    generator = load(D + "biggan-128/2").signatures["default"]
    assert changed(generator, "default", y=tf.one_hot([5, 6, 7, 8], 1000)) > 0.05
    assert 0.01 < changed(generator, "default", truncation=tf.constant(0.4)) < 0.3
    generator = load(S3GAN, "gen", "bsNone").signatures["default"]
    assert changed(generator, "generated", labels=tf.constant([5, 6, 7, 8])) > 0.05
    discriminator = load(S3GAN, "disc", "bsNone").signatures["default"]
    assert changed(discriminator, "prediction", labels=tf.constant([5, 6, 7, 8])) > 1e-3


def test_bigbigan_encodes_and_discriminates(load: Load) -> None:
    signatures = load(BIGBIGAN).signatures
    z = tf.random.stateless_normal([16, 120], [1, 2])
    images = signatures["generate"](z=z)
    encoded = signatures["encode"](x=images["upsampled"])
    for name in ("z_mean", "z_sample", "default"):
        assert np.corrcoef(np.ravel(encoded[name]), np.ravel(z))[0, 1] > 0.9
    score = signatures["discriminate"](x=images["default"], z=z)
    other = signatures["discriminate"](x=images["default"], z=z[::-1])
    np.testing.assert_array_equal(score["score_x"], other["score_x"])
    np.testing.assert_allclose(score["score_z"], other["score_z"][::-1], rtol=1e-4, atol=1e-5)
    assert np.all(score["score_xz"] > other["score_xz"] - (other["score_z"] - score["score_z"])), "a pair fits better"
    with tf.GradientTape() as tape:
        tape.watch(z)
        natural = signatures["discriminate"](x=signatures["generate"](z=z)["default"], z=z)["score_xz"]
    assert np.abs(tape.gradient(natural, z)).mean() > 1e-4


@pytest.mark.parametrize("handle", CLASSIFIERS)
def test_class_probabilities_move_with_the_image(handle: str, load: Load) -> None:
    tags, name, ((key, shape),), ((output, _),) = INTERFACES[handle][0]
    classify = load(handle, *(tags or [])).signatures[name]
    images = (load(BIGBIGAN).signatures["generate"](z=tf.random.stateless_normal([32, 120], [3, 4]))["default"] + 1) / 2
    images = tf.image.resize(images, [shape[1] or 299] * 2)
    with tf.GradientTape() as tape:
        tape.watch(images)
        outputs = classify(**{key: images})[output]
        probabilities = outputs if "birds" in handle else tf.nn.softmax(outputs)
        width = outputs.shape[1]
        goldfish = probabilities[:, 1 if width == 1000 else 2]
    np.testing.assert_allclose(tf.reduce_sum(probabilities, 1), 1, rtol=1e-5)
    assert (np.min(outputs) < 0) == ("birds" not in handle)
    assert np.min(goldfish) < 0.003
    assert np.max(goldfish) > 0.15
    assert 0.005 < np.median(goldfish) < 0.1
    assert np.abs(tape.gradient(goldfish, images)).sum((1, 2, 3)).min() > 1e-5


def test_slim_modules_take_their_further_arguments(load: Load) -> None:
    model = load(G + "imagenet/mobilenet_v2_100_224/classification/5")
    images = example("inputs", tf.TensorSpec([None, 224, 224, 3]))
    plain = model(images).numpy()
    np.testing.assert_allclose(model.signatures["serving_default"](inputs=images)["logits"], plain, rtol=1e-5)
    trained = model(images, True, False, tf.constant(1.0))
    assert np.abs(trained - plain).max() > 1e-3, "training normalizes by the batch"
    np.testing.assert_allclose(model(images, training=False), plain, rtol=1e-5, err_msg="momentum 1 moves nothing")
    assert (len(model.trainable_variables), len(model.variables)) == (4, 6)


def test_yamnet_frames_a_waveform(load: Load, folder_of: Callable[[str], Path]) -> None:
    model = load(YAMNET)
    for samples, frames, spectra in ((100, 1, 96), (15600, 1, 96), (48000, 6, 336)):
        shapes = [part.shape.as_list() for part in model(tf.zeros([samples]))]
        assert shapes == [[frames, 521], [frames, 1024], [spectra, 64]]
    time = tf.range(16000.0) / 16000
    scores = [model(0.5 * tf.sin(2 * np.pi * hertz * time))[0].numpy() for hertz in (200.0, 3000.0)]
    assert np.abs(scores[0] - scores[1]).mean() > 0.05
    assert 0 <= np.min(scores) < np.max(scores) <= 1
    with open(model.class_map_path().numpy()) as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == 521
    assert rows[494]["display_name"] == "Silence"
    assert list((folder_of(YAMNET) / "assets").iterdir())


@pytest.mark.parametrize(
    ("write", "ops"),
    [
        (standins.progan_with_while, {"Enter", "Exit", "NextIteration", "LoopCond"}),
        (standins.progan_with_cond, {"Switch", "Merge"}),
    ],
)
def test_variants_with_control_flow_of_version_1(write: Any, ops: set[str], tmp_path: Path) -> None:
    folder = write(tmp_path / "v")
    nodes = {node.op for node in read(folder).meta_graphs[0].graph_def.node}
    assert ops <= nodes
    assert not nodes & {"While", "StatelessWhile", "If", "StatelessIf"}
    signature = load_folder(folder).signatures["default"]
    images = signature(default=tf.random.stateless_normal([4, 512], [1, 2]))["default"]
    assert np.std(images, axis=0).mean() > 0.05
    assert tf.compat.v1.control_flow_v2_enabled(), "switched back on"


@pytest.mark.slow
def test_biggan_deep_256_in_a_small_width(tmp_path: Path) -> None:
    generate = load_folder(standins.biggan_deep_256(tmp_path / "deep", width=4)).signatures["default"]
    z = tf.tile(tf.random.stateless_normal([2, 128], [1, 2]), [2, 1])
    y = tf.one_hot([5, 5, 6, 6], 1000)
    images, truncated = (generate(z=z, y=y, truncation=tf.constant(part))["default"].numpy() for part in (1.0, 0.4))
    assert images.shape == (4, 256, 256, 3)
    assert np.abs(images).max() <= 1
    for difference in (images[0] - images[1], images[0] - images[2], images - truncated):
        assert 0.05 < np.abs(difference).mean() < 0.9


def test_the_cache_is_where_tensorflow_hub_looks(tmp_path: Path) -> None:
    folder = standins.cached_copy(PROGAN, tmp_path)
    assert folder == tmp_path / "2f9e2f0be115550c7ae9b90bb71b29e76fa404d8"  # sha1 of the handle
    before = (folder / "saved_model.pb").stat().st_mtime_ns
    assert standins.cached_copy(PROGAN, tmp_path) == folder
    assert (folder / "saved_model.pb").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_cache_holds_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> Path:
        folder.mkdir()
        raise OSError("disk full")

    monkeypatch.setitem(standins.STANDINS, PROGAN, broken)
    with pytest.raises(OSError, match="disk full"):
        standins.cached_copy(PROGAN, tmp_path)
    assert not list(tmp_path.iterdir())
