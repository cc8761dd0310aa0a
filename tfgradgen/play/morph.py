"""A path between two draws of a run on which the class holds.

Between two draws of a normal prior in many dimensions lie points of far smaller norm than any draw, for which a generator makes
blurred images. The path therefore follows the great circle between the two directions, while the norm goes evenly from one to
the other. The great circle knows nothing of the class, so each point of it is then moved uphill in p(class) on its own sphere,
until p(class) is that of the ends or the steps are spent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.api import bar
from tfgradgen.core.backend import compile_fn, full_float32
from tfgradgen.core.checks import check_int, fail
from tfgradgen.core.contracts import Progress, ProgressFn
from tfgradgen.io.images import decode
from tfgradgen.media.registry import DECODE_BATCH
from tfgradgen.play.clip import Clip, origin_of
from tfgradgen.play.limits import MORPH_FRAMES, MORPH_STEPS, MOST_FRAMES, MOST_MORPH_STEPS
from tfgradgen.play.source import posterior_for
from tfgradgen.play.which import check_two
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.result import SampleResult
from tfgradgen.results.summary import title_of

LENGTH = 0.4  # first step of a point, a distance in z: about that between two points of a path of 48
SHRINK = 0.5  # by which the step of a point that gained nothing shrinks
# Radians. Two directions with a smaller angle are equal; with an angle nearer to pi, no great circle is the shortest.
TINY_ANGLE = 1e-4


class Path(NamedTuple):
    """A path, and p(class) along it.

    Attributes:
      z: float32 [num_frames, latent_dim]; the first and the last are the two draws, to the bit.
      class_prob: float32 [num_frames].
      least_before: The least p(class) on the great circle.
    """

    z: np.ndarray
    class_prob: np.ndarray
    least_before: float


def great_circle(first: np.ndarray, last: np.ndarray, num_frames: int) -> np.ndarray:
    """Return points [num_frames, latent_dim] from `first` to `last`: directions on a great circle, norms evenly between.

    Raises:
      UserError: The two points are opposite to one another, so that no great circle is the shortest.
    """
    a, b = first.astype(np.float64), last.astype(np.float64)
    norms = np.linalg.norm(a), np.linalg.norm(b)
    share = np.linspace(0.0, 1.0, num_frames)[:, None]
    if min(norms) == 0.0:
        path = (1 - share) * a + share * b
    else:
        u, v = a / norms[0], b / norms[1]
        angle = 2.0 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))  # exact also where the two are near
        if np.pi - angle < TINY_ANGLE:
            raise fail("morph", "two draws that are not opposite to one another", "z and -z", "choose another chain")
        if angle < TINY_ANGLE:
            turned = (1 - share) * u + share * v
        else:
            turned = (np.sin((1 - share) * angle) * u + np.sin(share * angle) * v) / np.sin(angle)
        path = turned * ((1 - share) * norms[0] + share * norms[1])
    points: np.ndarray = path.astype(np.float32)
    points[0], points[-1] = first, last
    return points


def lift(posterior: ClassPosterior, z: np.ndarray, num_steps: int, progress_fn: ProgressFn | None = None) -> Path:
    """Move the inner points of a path uphill in p(class), each on its own sphere.

    A point moves only while its log p(class) is below that of the ends, evenly between the two, and only by steps after which
    it is not lower, or not below that. So the least p(class) of the new path is never below that of the old one. Steps are
    averaged over neighbours, so that points which are near stay near.

    Args:
      posterior: The target; only its p(class) is used, at temperature 1.
      z: [num_frames, latent_dim], at least two frames.
      num_steps: Most gradients at each point.
      progress_fn: Called with a `Progress` after each of them.
    """
    radius = np.linalg.norm(z, axis=1, keepdims=True)
    evaluate = _value_and_gradient(posterior)
    points, (values, gradients) = z.copy(), evaluate(z)
    before = float(np.exp(values.min()))
    share = np.linspace(0.0, 1.0, len(z))
    goal = np.minimum((1 - share) * values[0] + share * values[-1], 0.0)
    length = np.full(len(z), LENGTH)
    is_inner = np.ones(len(z), bool)
    is_inner[[0, -1]] = False
    for step in range(num_steps):
        lack = np.where(is_inner & (radius[:, 0] > 0), np.clip(goal - values, 0.0, 1.0), 0.0)
        if not lack.any():
            break
        direction = _tangent(points, gradients)
        move = _smooth(direction * lack[:, None]) * length[:, None]
        tried = points + move.astype(np.float32)
        norm = np.linalg.norm(tried, axis=1, keepdims=True)
        tried = np.where(is_inner[:, None] & (norm > 0), tried * (radius / np.maximum(norm, 1e-30)), points).astype(np.float32)
        rows = np.flatnonzero((tried != points).any(1))  # often few: the others need no evaluation
        if not len(rows):
            break
        tried_values, tried_gradients = evaluate(tried[rows])
        takes = tried_values >= np.minimum(values, goal)[rows]
        length[rows[~takes]] *= SHRINK
        kept = rows[takes]
        points[kept], values[kept], gradients[kept] = tried[kept], tried_values[takes], tried_gradients[takes]
        if progress_fn:
            mean = float(np.exp(values).mean())
            progress_fn(Progress(step + 1, num_steps, float(takes.mean()), float(length[1:-1].mean()), mean))
    return Path(points, np.exp(values).astype(np.float32), before)


def _value_and_gradient(posterior: ClassPosterior) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return z [num_frames, latent_dim] -> log p(class) [num_frames] and its gradient; not finite ones are -1e30, and 0."""
    size = min(posterior.networks.max_batch or DECODE_BATCH, DECODE_BATCH)

    # Compiled, as in a run of chains. A gradient in eager mode would be built otherwise, and shared by later runs in the
    # process, whose draws would then differ in their last bits.
    def of_rows(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = posterior.class_log_prob(z)
        return value, tape.gradient(value, z)

    spec = tf.TensorSpec([None, posterior.latent_dim], tf.float32)
    rows_fn = compile_fn(of_rows, input_signature=[spec])

    def of_path(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        full_float32()
        parts = [rows_fn(tf.constant(z[k : k + size])) for k in range(0, len(z), size)]
        value, gradient = (np.concatenate([np.asarray(part[k], np.float64) for part in parts]) for k in (0, 1))
        is_finite = np.isfinite(value) & np.isfinite(gradient).all(1)
        return np.where(np.isfinite(value), value, -1e30), np.where(is_finite[:, None], gradient, 0.0)

    return of_path


def _tangent(points: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return the unit directions along the sphere in which log p(class) grows fastest; 0 where it has none."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    radial = points / np.maximum(norms, 1e-30)
    along = gradients - (gradients * radial).sum(1, keepdims=True) * radial
    sizes = np.linalg.norm(along, axis=1, keepdims=True)
    unit: np.ndarray = np.where(sizes > 0, along / np.maximum(sizes, 1e-30), 0.0)
    return unit


def _smooth(rows: np.ndarray) -> np.ndarray:
    """Average each row with its two neighbours, with weights 1/4, 1/2 and 1/4; the ends stay."""
    result: np.ndarray = rows.copy()
    result[1:-1] = 0.25 * rows[:-2] + 0.5 * rows[1:-1] + 0.25 * rows[2:]
    return result


def morph(
    result: SampleResult,
    first: int,
    last: int,
    *,
    frames: int = MORPH_FRAMES,
    num_steps: int = MORPH_STEPS,
    posterior: ClassPosterior | None = None,
    progress: bool | ProgressFn = False,
) -> Clip:
    """Return a path from the last draw of one chain to that of another, with the class held on the way.

    Args:
      result: A run of `sample` or `load_run`.
      first: The number of the first chain, from 0.
      last: The number of the other one.
      frames: Number of images, ends included, 2..2000.
      num_steps: Most gradients with which each point on the great circle is moved to the class, 0..1000; 0 leaves it there.
      posterior: That of the run; by default its models are loaded again (see `load_posterior`).
      progress: Whether to show a progress bar, or a function that is called with each `Progress`.

    Returns:
      The frames. The record has `least_class_prob` on the path, and on the great circle alone.

    Raises:
      UserError: An argument is out of its range, the chains have different labels, or the models of the run are not there.
    """
    first, last = check_two(first, last, result)
    frames, num_steps = check_int("frames", frames, 2, MOST_FRAMES), check_int("num_steps", num_steps, 0, MOST_MORPH_STEPS)
    record = result.record
    index: Any = record["label"].get("index")
    if isinstance(index, list) and index[first] != index[last]:
        raise fail("last", "a chain of the same class as the first", last, "choose two chains of one class")
    plain = great_circle(result.z[-1, first], result.z[-1, last], frames)
    target = posterior_for(result, first, posterior)
    with bar("morph", progress) as progress_fn:
        path = lift(target, plain, num_steps, progress_fn)
    images = decode(target.generator, path.z, target.networks.max_batch)
    names = (f"chain {first}, ", *[""] * (frames - 2), f"chain {last}, ")
    captions = tuple(f"{name}p {p:.2f}" for name, p in zip(names, path.class_prob, strict=True))
    said = {
        "command": "morph",
        "run": str(result.folder or ""),
        "first": first,
        "last": last,
        "frames": frames,
        "num_steps": num_steps,
        "least_class_prob": float(path.class_prob.min()),
        "least_class_prob_of_great_circle": path.least_before,
        "class_prob": [float(p) for p in path.class_prob],
        **origin_of(record),
    }
    return Clip(images, path.z, path.class_prob, captions, title_of(record), said)
