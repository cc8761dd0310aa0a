"""Labels draws of the generator with two teachers, in chunks of 2,000, and resumes after an interruption.

    python -m tools.train.label_draws --out=DIR --teacher=MODEL [--count=200000] [--kind=prior|near] [--size=112]

MODEL is the teacher of train_classifier.py. The other teacher is EfficientNet-Lite1, whose input has `--size` pixels. `near`
draws are around and between the draws in the prior chunks that both teachers assign to a class; they need these chunks first. A
chunk is a folder of .npy files, written atomically, that depends on its kind, its number and the models only. DIR/models.json
says which models these are.
"""

import functools
import os
import shutil
import time
import warnings
from pathlib import Path

import numpy as np

from tfgradgen.core.checks import check_int
from tfgradgen.core.files import json_text, write_text
from tfgradgen.core.parsing import read_json
from tfgradgen.models.loading.metadata import fingerprint
from tools.command import run

CHUNK = 2000
BATCH = 10  # images per call of a network
KINDS = {"prior": 0, "near": 1}
FIELDS = ("z", "image", "classifier", "lite")


def targets(classifier_log_probs, lite_log_probs):
    """Return targets, float32 [N, K + 1]: the product of both probabilities for each class, and the rest for "other" (last)."""
    both = np.exp(classifier_log_probs[:, :-1] + lite_log_probs)
    return np.concatenate([both, 1 - both.sum(1, keepdims=True)], 1).astype("float32")


def near(z, target, count, rng):
    """Return points [count, D] around the draws among `z [N, D]` that belong to a class, a third of each kind.

    The kinds are points on the arc from such a draw to another draw, points on a short arc to a fresh draw, and scaled draws.
    """
    of_class = 1 - target[:, -1].astype("float64")
    # Uncertain draws are included, because log p(class) has its gradient between certain and uncertain draws.
    chosen = z[rng.choice(len(z), count, p=np.sqrt(of_class) / np.sqrt(of_class).sum())]
    third = count // 3
    angle = rng.uniform(0, np.pi / 2, (count, 1))
    partner = z[rng.integers(0, len(z), count)]
    angle[third:], partner[third:] = angle[third:] / 3, rng.standard_normal((count - third, z.shape[1]))
    moved = np.cos(angle) * chosen + np.sin(angle) * partner
    moved[2 * third :] = chosen[2 * third :] * rng.uniform(0.6, 1.2, (count - 2 * third, 1))
    return moved.astype("float32")


def num_threads():
    """Return the number of threads to use."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or len(os.sched_getaffinity(0))


def compiled(fn, shape):
    """Return `fn` of float32 [BATCH, *shape] as a function of arrays [N, *shape] -> array.

    It runs in TensorFlow Lite, which takes little more than half the time of TensorFlow for depthwise convolutions on a CPU.
    """
    import tensorflow as tf

    spec = tf.TensorSpec([BATCH, *shape], tf.float32)
    traced = tf.function(lambda x: fn(x), autograph=False, input_signature=[spec]).get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it will move to another package in a later TensorFlow than setup.cfg allows
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=num_threads())
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call(x):
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    def in_batches(x):
        padded = np.concatenate([x, np.zeros((-len(x) % BATCH, *x.shape[1:]), x.dtype)])
        parts = [call(np.asarray(padded[i : i + BATCH], "float32")) for i in range(0, len(padded), BATCH)]
        return np.concatenate(parts)[: len(x)]

    return in_batches


class Teachers:
    """`generate(z)`, uint8 images; `classifier(image)` [N, K + 1] and `lite(image)` [N, K], log-probabilities."""

    def __init__(self, generator, classifier, size=112):
        import tensorflow as tf

        from tfgradgen.media.image import to_uint8
        from tfgradgen.models.classifier import load_classifier
        from tfgradgen.models.generator import load_generator
        from tools.train.efficientnet_lite import Pretrained

        generator, classifier = load_generator(generator), load_classifier(classifier)
        lite, columns = Pretrained("lite1", size), imagenet_columns(classifier.labels)
        self.latent_dim = generator.latent_dim
        # TensorFlow Lite cannot convert a folded generator.
        generate = tf.function(lambda z: generator(z), autograph=False, reduce_retracing=True)
        self.generate = lambda z: np.concatenate([to_uint8(generate(z[i : i + BATCH])) for i in range(0, len(z), BATCH)])
        in_range = lambda fn: compiled(lambda image: tf.nn.log_softmax(fn(image / 127.5 - 1.0)), (64, 64, 3))  # noqa: E731
        self.classifier = in_range(classifier)
        self.lite = compiled(
            lambda image: tf.gather(tf.nn.log_softmax(lite(image / 127.5 - 1.0)), columns, axis=1), (64, 64, 3)
        )

    def label(self, z):
        """Return {field: array} of the draws at `z [N, D]`."""
        image = self.generate(z)
        return {"z": z, "image": image, "classifier": self.classifier(image), "lite": self.lite(image)}


def imagenet_columns(labels):
    """Return the indices of `labels`, except "other", among ImageNet's 1000 classes, by WordNet id."""
    from tfgradgen.models.imagenet import imagenet_labels

    index = {label.wnid: k for k, label in enumerate(imagenet_labels(1000))}
    missing = [label.name for label in labels if not label.background and label.wnid not in index]
    if missing:
        raise SystemExit(f"teacher: expected classes of ImageNet, got {', '.join(missing)}; give their wnid in model.json.")
    return [index[label.wnid] for label in labels if not label.background]


def claim(out, generator, teacher, size=112):
    """Keep which models make and label the draws in `out`; refuse draws of other models."""
    models = {"generator": fingerprint(Path(generator)), "teacher": fingerprint(Path(teacher)), "size": size}
    bind(out, models, any(chunks(out, kind) for kind in KINDS), f"draws of {generator}, labelled by {teacher}")


def bind(out, models, is_used, expected):
    """Keep `models`, {role: checksum or setting}, in models.json; refuse `out` if others made what `is_used` there."""
    path = Path(out) / "models.json"
    known = read_json(path) if path.exists() else None
    if known is None and not is_used:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json_text(models))
    elif known != models:
        raise SystemExit(f"{out}: expected {expected}, got others; give another folder.")


def chunk_folder(out, kind, number):
    """Return the folder of a chunk."""
    return Path(out) / kind / f"{number:05d}"


def chunks(out, kind):
    """Return the folders of the complete chunks, in order."""
    return sorted(path for path in (Path(out) / kind).glob("[0-9]*") if path.is_dir())


def read_chunk(folder, fields=FIELDS):
    """Return one memory-mapped array per field."""
    return [np.load(folder / f"{field}.npy", mmap_mode="r") for field in fields]


def write_chunk(folder, arrays):
    """Write {field: array} to `folder`, atomically."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for field, array in arrays.items():
        np.save(partial / f"{field}.npy", array)
    partial.rename(folder)


def points(out, kind, number, latent_dim, size=CHUNK):
    """Return the latent points [size, latent_dim] of a chunk."""
    rng = np.random.default_rng([18, KINDS[kind], number])
    if kind == "prior":
        return rng.standard_normal((size, latent_dim), "float32")
    source = chunk_folder(out, "prior", number)
    if not source.exists():
        raise SystemExit(f"{source}: expected the prior draws of this number, got nothing; label --kind=prior first.")
    z, classifier, lite = read_chunk(source, ("z", "classifier", "lite"))
    return near(np.asarray(z), targets(classifier, lite), size, rng)


def label_all(out, kind, count, teachers_fn, size=CHUNK, say=print):
    """Label draws until there are `count` of `kind`, in chunks of `size`; `teachers_fn()` is only called if needed."""
    for number in range(-(-count // size)):
        folder = chunk_folder(out, kind, number)
        if folder.exists():
            continue
        teachers = teachers_fn()
        start, cpu = time.monotonic(), time.process_time()
        arrays = teachers.label(points(out, kind, number, teachers.latent_dim, size))
        write_chunk(folder, arrays)
        mass = targets(arrays["classifier"], arrays["lite"])[:, :-1].sum(1).mean()
        say(
            f"{kind} {(number + 1) * size} of {count}: p(any class) {mass:.3f}, "
            f"{time.monotonic() - start:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        )


def main(out, teacher, count=200_000, kind="prior", size=112, generator="saved_models/generator"):
    """Label `count` draws of `kind` by `generator` in total."""
    if kind not in KINDS:
        raise SystemExit(
            f"kind: expected {' or '.join(KINDS)}, got {kind!r}; python -m tools.train.train_consensus makes the rounds."
        )
    count = check_int("count", count, 1)
    claim(out, generator, teacher, size)
    teachers = functools.cache(lambda: Teachers(generator, teacher, size))
    label_all(out, kind, count, teachers, say=lambda text: print(time.strftime("%F %T"), text, flush=True))


if __name__ == "__main__":
    run(main)
