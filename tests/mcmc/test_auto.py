"""--kernel=auto: exact draws if a target has enough mass, otherwise chains; the record says which and why."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support.command import refused
from tests.support.toy import ToyClassifier, ToyGenerator
from tfgradgen.cli.commands import main
from tfgradgen.core.checks import UserError
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.auto import CHOICES, NUM_DRAWS, choose
from tfgradgen.mcmc.pool import Pool
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.posterior import ClassPosterior

RUN = RunConfig(num_chains=4, seed=2)
LEAST = CHOICES[0][1]


class Step(ToyClassifier):
    """p(class 1) is nearly 1 above an edge of the first pixel, nearly 0 below."""

    def __init__(self, edge: float):
        self.edge = edge

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        value = 40.0 * (image[:, 0, 0, 0] - self.edge)
        return tf.stack([tf.zeros_like(value), value], -1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # about images of the toy, which are not bounded
@pytest.mark.parametrize(("edge", "kernel"), [(1.9, "rejection"), (3.3, "elliptical_slice")])
def test_the_mass_decides(edge: float, kernel: str) -> None:
    """The masses are 0.029 and 0.0005, by quadrature."""
    choice = choose(ClassPosterior(ToyGenerator(), Step(edge), 1), RUN)
    z = np.linspace(-10, 10, 100_001)
    prob = 1 / (1 + np.exp(np.clip(-40.0 * (z - edge), -500, 500)))
    mass = float((np.exp(-0.5 * z**2) * prob).sum() / np.exp(-0.5 * z**2).sum())
    assert (choice.kernel, choice.num_draws) == (kernel, NUM_DRAWS)
    assert abs(choice.mass - mass) < 4 * choice.error
    assert 0 < choice.error < 0.004
    assert (mass >= LEAST) == (kernel == "rejection")
    assert f"{LEAST:g} of the prior" in choice.why


def test_the_temperature_belongs_to_the_target() -> None:
    posterior = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
    cold = posterior.copy(temperature=0.001)
    masses = [choose(each, RUN).mass for each in (posterior, cold, posterior.copy(temperature=3.0))]
    assert masses[1] < masses[0] < masses[2]
    log_prob = np.asarray(tf.math.log_sigmoid(3.0 * tf.random.stateless_normal([100_000], [1, 2])), np.float64)
    assert abs(masses[2] - np.exp(log_prob / 3.0).mean()) < 0.02


def test_the_rarest_of_several_labels_decides_and_a_discriminator_rules_rejection_out() -> None:
    rare = ClassPosterior(ToyGenerator(), Step(1.0), np.array([1, 1, 0, 0]))
    assert choose(rare, RUN).mass == choose(ClassPosterior(ToyGenerator(), Step(1.0), 1), RUN).mass
    driven = ClassPosterior(
        ToyGenerator(), ToyClassifier(), 1, discriminator=lambda image: image[:, 0, 1, 0], discriminator_weight=1.0
    )
    choice = choose(driven, RUN)
    assert SAMPLERS[choice.kernel].kind == "chain"
    assert "discriminator" in choice.why


def test_its_draws_serve_the_run_that_follows() -> None:
    posterior = ClassPosterior(ToyGenerator(), ToyClassifier(), 1)
    choose(posterior, RUN)
    evaluated = Pool.num_evaluated
    tg.sample_exact(posterior, 100, RUN)
    tg.initial_points(posterior, RUN)
    assert Pool.num_evaluated == evaluated


def test_models_that_would_go_wrong_are_refused_before_it() -> None:
    class IsNan(ToyGenerator):
        def __call__(self, z: Any) -> tf.Tensor:
            return super().__call__(z) * np.nan

    with pytest.raises(UserError, match="NaN"):
        choose(ClassPosterior(IsNan(), ToyClassifier(), 1), RUN)


def record(folder: str) -> dict[str, Any]:
    return dict(json.loads(Path(folder, "run.json").read_text()))


def z_of(folder: str) -> np.ndarray:
    with np.load(Path(folder, "samples.npz")) as samples:
        return samples["z"]


@pytest.mark.usefixtures("quick_runs")
def test_a_command_without_a_kernel_says_what_it_chose_and_is_that_run(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", "--label=goldfish", "--num_chains=3", "--num_results=6", *toy_flags]
    main(command)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("chose    rejection for goldfish (0.3")
    assert out[0].endswith("of the prior): at least 0.001 of the prior, so exact draws are affordable")
    assert out[1].startswith("ran      rejection for goldfish")
    main([*command, "--kernel=rejection", "--out=named"])
    found, named = record("out/goldfish-auto-0"), record("named")
    np.testing.assert_array_equal(z_of("out/goldfish-auto-0"), z_of("named"))
    assert found["kernel"] == found["arguments"]["kernel"] == "rejection"
    assert found.pop("auto").keys() == {"kernel", "mass", "error", "num_draws", "why"}
    assert {name for name in found if found[name] != named[name]} <= {"arguments", "seconds"}
    main([*command, "--resume"])
    assert "kept     out/goldfish-auto-0" in capsys.readouterr().out


@pytest.mark.usefixtures("quick_runs")
def test_each_label_has_its_own_choice(
    toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two labels run by rejection and two as one batch of chains, with a sheet of all; --resume continues both kinds."""
    chances = {"goldfish": 0.2, "king_penguin": 0.0001, "alp": 0.0002}
    monkeypatch.setattr(auto, "_mass", lambda posterior, run: (chances[posterior.label_names[0]], 1e-5))
    command = ["sample", "--label=all", "--num_chains=2", "--num_results=3", "--out=all", *toy_flags]
    main(command)
    out = capsys.readouterr().out
    assert "chose    rejection for goldfish (0.200 +- 1e-05 of the prior)" in out
    slices = "king_penguin (0.0001 +- 1e-05 of the prior), alp (0.0002 +- 1e-05 of the prior)"
    assert f"chose    elliptical_slice for {slices}: less than 0.001 of the prior" in out
    kernels = {name: record(f"all/{name}")["kernel"] for name in chances}
    assert kernels == {"goldfish": "rejection", "king_penguin": "elliptical_slice", "alp": "elliptical_slice"}
    assert record("all/alp")["batch"]["name"] == ["king_penguin", "alp"]
    assert Path("all/sheet.png").exists()
    main([*command, "--resume"])
    assert capsys.readouterr().out.count("kept     all/") == 3


def test_the_library_takes_it_too_and_its_settings_are_those_of_all(toy_pair: tuple[Path, Path]) -> None:
    posterior = tg.ClassPosterior(tg.load_generator(toy_pair[0]), tg.load_classifier(toy_pair[1]), 0)
    result = tg.sample(posterior, "auto", num_results=4, num_chains=3)
    np.testing.assert_array_equal(result.z, tg.sample(posterior, "rejection", num_results=4, num_chains=3).z)
    assert result.record["auto"]["kernel"] == result.record["kernel"] == "rejection"
    with pytest.raises(UserError, match=r"step_size: expected a setting of auto: num_results, got 0\.5; leave it out, or"):
        tg.sample(posterior, "auto", step_size=0.5)
    assert auto.known_settings() == ("num_results",)


def test_it_is_in_the_help_and_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--kernel=auto", "--help"])
    assert "--kernel=auto " in capsys.readouterr().out
    main(["export", "--help"])
    assert "--kernel=mala " in capsys.readouterr().out
    main(["kernels"])
    assert capsys.readouterr().out.startswith("auto  ")


def test_only_sample_takes_it(toy_flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "got 'auto'" in refused(["tune", "--label=goldfish", "--kernel=auto", *toy_flags], capsys)
