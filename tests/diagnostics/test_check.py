"""Problems of a pair of models that a run itself would not report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.command import FAST, FAST_MALA, refused
from tfgradgen import ClassPosterior
from tfgradgen.cli.commands import main
from tfgradgen.core.config import RunConfig
from tfgradgen.diagnostics import model_checks
from tfgradgen.diagnostics.model_checks import NUM_CHECKED, NUM_EVALUATIONS, checked_gradients, prior_checks, without_xla
from tfgradgen.diagnostics.preflight import Check, gradient_checks, value_and_gradient, xla_check
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tfgradgen.models.shipped import default_model

pytestmark = pytest.mark.usefixtures("quick_runs")

Z = tf.constant(np.random.default_rng(0).standard_normal((8, 6)), tf.float32)


def checks_of(posterior: ClassPosterior) -> list[Check]:
    evaluate = lambda z: value_and_gradient(posterior.likelihood_log_prob, z)  # noqa: E731
    graph_fn, xla_fn = (tf.function(evaluate, jit_compile=xla, autograph=False) for xla in (False, True))
    found = prior_checks(posterior)
    if any(check.is_grave and not check.is_ok for check in found):
        return found
    return [*found, *gradient_checks(Z, graph_fn, xla_fn)]


def failed(generator: Any = None, classifier: Any = None, temperature: float = 1.0) -> list[str]:
    posterior = ClassPosterior(generator or toy.ToyGenerator(), classifier or toy.ToyClassifier(), 1, temperature=temperature)
    return [check.what for check in checks_of(posterior) if not check.is_ok]


class Changed(toy.ToyGenerator):
    def __init__(self, change: Any):
        self.change = change

    def __call__(self, z: Any) -> tf.Tensor:
        return self.change(tf.tanh(super().__call__(z)))


class Noisy(toy.ToyClassifier):
    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        return super().__call__(image) + tf.random.normal([image.shape[0], 2])


class Unlike(toy.ToyClassifier):
    """A function that differs between XLA and graph mode, like a wrong compilation."""

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        self.count += not tf.executing_eagerly()  # the second trace is by XLA
        return super().__call__(image) * (1.0 if self.count < 2 else 1.5)

    count = 0


def test_a_sound_pair_passes() -> None:
    checks = checks_of(ClassPosterior(Changed(tf.identity), toy.ToyClassifier(), 1))
    assert [check.what for check in checks if not check.is_ok] == []
    assert [check.what for check in checks] == [
        "generator",
        "image",
        "variety",
        "determinism",
        "rows",
        "p(class)",
        "p(class)",
        "p(class)",
        "p(class)",
        "models",
        "models",
        "gradient",
        "scales",
        "determinism",
        "rows",
        "xla",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda image: image * 3.0, ["image"]),
        (lambda image: image * np.nan, ["generator", "p(class)"]),
        (tf.round, ["models"]),
        (lambda image: image[:1] * 0.0 + 0.1 * tf.ones_like(image), ["variety", "p(class)", "models"]),
        (lambda image: 0.1 + image * 1e-5, ["variety", "p(class)", "scales"]),
    ],
    ids=["range", "nan", "rounded", "constant", "flat"],
)
def test_problems_of_a_generator_are_named(change: Any, expected: list[str]) -> None:
    assert failed(Changed(change)) == expected


def test_noise_and_a_wrong_compilation_are_named() -> None:
    assert "determinism" in failed(Changed(tf.identity), Noisy())
    assert failed(Changed(tf.identity), Unlike()) == ["xla"]
    assert failed(Changed(tf.identity), temperature=1e5) == ["p(class)", "scales"]


@pytest.mark.parametrize(
    ("nats", "turn", "is_ok"),
    [(0.005, 0.03, True), (0.02, 0.0, False), (0.0, 0.08, False), (np.nan, 0.0, False), (0.0, np.nan, False)],
)
def test_xla_may_differ_by_rounding_and_no_more(nats: float, turn: float, is_ok: bool) -> None:
    value, gradient = np.zeros(8, np.float32), np.full((8, 6), 2.0, np.float32)
    assert xla_check(lambda z: (value + nats, gradient * (1 + turn)), Z, value, gradient).is_ok == is_ok


@pytest.mark.parametrize(("num_turned", "is_ok"), [(1, True), (3, True), (5, False)])
def test_xla_may_turn_the_gradient_at_a_kink_but_not_at_most_points(num_turned: int, is_ok: bool) -> None:
    """The shipped classifier clips its units, and rounding decides on which side of a kink a unit is."""
    value, gradient = np.zeros(8, np.float32), np.full((8, 6), 2.0, np.float32)
    other = gradient * (1 + 0.13 * (np.arange(8) < num_turned))[:, None]
    assert xla_check(lambda z: (value, other), Z, value, gradient).is_ok == is_ok


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image - tf.reduce_mean(image, 0),
        lambda image: image / (1.0 + tf.math.reduce_std(image, 0)),
        lambda image: image - image[:1],
        lambda image: image + 0.1 * tf.roll(image, 1, 0),
    ],
    ids=["mean", "std", "first", "neighbour"],
)
def test_a_model_that_mixes_rows_is_named(change: Any) -> None:
    assert failed(Changed(lambda image: 0.4 * change(image))) == ["rows"]
    mixing = type("Mixing", (toy.ToyClassifier,), {"__call__": lambda self, x: change(toy.ToyClassifier.__call__(self, x))})
    assert failed(Changed(tf.identity), mixing()) == ["rows"]


def test_a_run_checks_first_and_stops_at_grave_problems_only(
    toy_flags: list[str], toy_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The noise is found before the first step; images out of range give a warning."""
    card = json.loads((toy_pair[0] / "model.json").read_text())
    images_of = lambda z: tf.tanh(tf.reshape(tf.tile(z, [1, 32]), [-1, 8, 8, 3]))  # noqa: E731
    noisy = lambda z: images_of(z) + 0.1 * tf.random.uniform(tf.shape(images_of(z)))  # noqa: E731
    toy.save(tmp_path / "noisy", noisy, [None, 6], card)
    toy.save(tmp_path / "wide", lambda z: 3.0 * images_of(z), [None, 6], card)
    command = ["sample", "--label=goldfish", *FAST_MALA, toy_flags[1]]
    assert "determinism: expected the same bits" in refused([*command, "--generator=noisy"], capsys)
    main([*command, "--generator=wide", "--out=wide_run"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning  image: expected float32")]
    assert len(said) == 1
    main(["diagnose", "wide_run"])
    assert said[0] in capsys.readouterr().out
    main(["sample", "--label=goldfish", "--kernel=map", *FAST, *toy_flags, "--jit=true", "--out=compiled"])
    assert json.loads(Path("compiled/run.json").read_text())["num_gradients"] == 3 * (1 + 8) + NUM_CHECKED * (
        NUM_EVALUATIONS + 1
    )


def test_where_xla_fails_for_one_of_many_labels_the_run_is_in_graph_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only where it fails for the first."""
    fails: list[str] = []

    def checked(*args: Any) -> Check:
        fails.append("all the gradient apart" if fails else "")
        return Check("xla", not fails[-1], "the same", fails[-1], "use --jit=false")

    monkeypatch.setattr(model_checks, "use_xla", lambda jit: True)
    monkeypatch.setattr("tfgradgen.diagnostics.preflight.xla_check", checked)
    posterior = ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), [0, 1])
    assert without_xla(posterior, RunConfig()) == "all the gradient apart"
    assert fails == ["", "all the gradient apart"]
    assert without_xla(posterior, RunConfig(jit=False)) == ""
    fails.clear()
    one = ClassPosterior(toy.ToyGenerator(), toy.ToyClassifier(), 0)
    assert without_xla(one, RunConfig()) == ""


def test_the_shipped_generator_is_the_same_by_xla(toy_pair: tuple[Path, Path]) -> None:
    """XLA compiles it for the checks of a run alone: for the chains it would take twice as long again."""
    posterior = ClassPosterior(load_generator(default_model("generator")), load_classifier(toy_pair[1]), 0)
    (found,) = [check for check in checked_gradients(posterior, RunConfig(jit=True)) if check.what == "xla"]
    assert found.is_ok, found


@pytest.mark.parametrize("shape", [[3, 8, 8], [8, 8, 5]])
def test_images_that_no_png_can_hold_are_refused_before_a_run(
    shape: list[int], toy_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Channels first, or more channels than a colour image has.

    Without the check, a run ends in a traceback when it writes its grid.
    """
    images_of = lambda z: tf.tanh(tf.reshape(tf.tile(z, [1, 60]), [-1, 360]))[:, : int(np.prod(shape))]  # noqa: E731
    toy.save(tmp_path / "odd", lambda z: tf.reshape(images_of(z), [-1, *shape]), [None, 6])
    mean = lambda x: tf.stack([tf.reduce_mean(x, [1, 2, 3]), tf.reduce_max(x, [1, 2, 3])], 1)  # noqa: E731
    toy.save(tmp_path / "any", mean, [None, *shape])
    for command in (["sample", *FAST_MALA], ["check"]):
        line = refused([*command, "--label=1", "--generator=odd", "--classifier=any"], capsys)
        assert "channels" in line
        assert str(shape).strip("[]") in line
    assert not Path("out").exists()


def test_the_command_prints_a_table_and_fails_on_a_problem(
    toy_flags: list[str], toy_pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", "--label=goldfish", *toy_flags])
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("goldfish, at 64 prior draws, of gradients at 16") + 1
    assert [line.split()[0] for line in lines[start : start + 17]] == ["ok"] * 17
    card = json.loads((toy_pair[0] / "model.json").read_text())
    rounded = lambda z: tf.round(tf.reshape(tf.tile(tf.tanh(z), [1, 32]), [-1, 8, 8, 3]))  # noqa: E731
    toy.save(tmp_path / "rounded", rounded, [None, 6], card)
    with pytest.raises(SystemExit) as exit_:
        main(["check", "--label=all", "--generator=rounded", toy_flags[1]])
    assert exit_.value.code == 1
    out = capsys.readouterr().out
    assert out.count("FAIL   models       a non-zero gradient") == 3, "one for each class"
    assert "the generator or classifier cuts it" in out
    assert "did you mean --seed?" in refused(["check", "--sed=1"], capsys)
