"""A sampler is one file and one name in the registry: help, search and contract find a new sampler, and it samples."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

import tfgradgen.mcmc
from tests.support.command import FAST, refused
from tests.support.contract import Contract
from tests.support.distributions import families_of
from tfgradgen.cli.commands import main
from tfgradgen.mcmc import registry
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.tuning.space import check_tunable, searched, suggest

FILE = '''
"""Random-walk Metropolis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from tfgradgen.core.backend import fold_in, log_uniform
from tfgradgen.core.config import AdaptedConfig, Schedule
from tfgradgen.core.contracts import Cost
from tfgradgen.core.lazy import tf
from tfgradgen.core.settings import Search, real
from tfgradgen.mcmc.kernel import KernelSampler, KernelBase, read_step


@dataclass(frozen=True)
class RandomWalkConfig(AdaptedConfig):
    scale: float = real(1.0, high=4.0, help="length of a proposal, in step sizes", search=Search(0.5, 2.0))


class Results(NamedTuple):
    step_size: tf.Tensor
    target_log_prob: tf.Tensor
    is_accepted: tf.Tensor
    log_accept_ratio: tf.Tensor


class RandomWalk(KernelBase):
    def __init__(self, target_log_prob_fn: Any, step_size: Any, scale: float):
        self._parameters = dict(target_log_prob_fn=target_log_prob_fn, step_size=step_size, scale=scale)

    def bootstrap_results(self, init_state: Any) -> Results:
        value = self._parameters["target_log_prob_fn"](init_state)
        step_size = tf.convert_to_tensor(self._parameters["step_size"], tf.float32)
        return Results(step_size, value, tf.ones_like(value, tf.bool), tf.zeros_like(value))

    def one_step(self, current_state: Any, previous_kernel_results: Results, seed: Any = None) -> Any:
        before = previous_kernel_results
        noise = tf.random.stateless_normal(tf.shape(current_state), fold_in(seed, 0))
        proposed = current_state + self._parameters["scale"] * before.step_size * noise
        value = self._parameters["target_log_prob_fn"](proposed)
        ratio = value - before.target_log_prob
        takes = log_uniform(tf.shape(value), fold_in(seed, 1)) < ratio
        state = tf.where(takes[:, None], proposed, current_state)
        return state, Results(before.step_size, tf.where(takes, value, before.target_log_prob), takes, ratio)


SAMPLER = KernelSampler(
    "random_walk",
    about="the oldest of all",
    exactness="asymptotically exact",
    defaults=RandomWalkConfig(step_size=0.2, target_accept_prob=0.3),
    schedule=Schedule(num_results=100, num_burnin_steps=50, num_adaptation_steps=40),
    cost_fn=lambda config: Cost(0, 1),
    start_cost=lambda config: Cost(0, 1),
    make_fn=lambda posterior, config, step_size, num_adaptation_steps: RandomWalk(
        posterior.unnormalized_log_prob, step_size, config.scale
    ),
    info_fn=lambda posterior, config, z, results: read_step(results, 0, 1),
)
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelSampler]:
    """The sampler of `FILE`, as if it were in tfgradgen/mcmc and in the registry."""
    folder = tmp_path / "mcmc"
    folder.mkdir()
    (folder / "random_walk.py").write_text(FILE)
    monkeypatch.setattr(tfgradgen.mcmc, "__path__", [*tfgradgen.mcmc.__path__, str(folder)])
    for name, sampler in registry.load("random_walk").items():
        monkeypatch.setitem(registry.SAMPLERS, name, sampler)
        assert isinstance(sampler, KernelSampler)
        yield sampler
    del sys.modules["tfgradgen.mcmc.random_walk"]
    del tfgradgen.mcmc.random_walk  # type: ignore[attr-defined]


def test_it_is_found_in_the_help_with_its_own_settings(added: KernelSampler, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", "--kernel=random_walk", "--help"])
    out = capsys.readouterr().out
    assert "Settings of random_walk (the oldest of all; asymptotically exact)" in out
    assert "\n  --scale=1                   length of a proposal, in step sizes (above 0, below 4)\n" in out
    assert "\n  --num_results=100 " in out
    main(["sample", "--help"])
    assert "random_walk" in capsys.readouterr().out
    main(["kernels"])
    assert "\nrandom_walk       chain      asymptotically exact  the oldest of all\n" in capsys.readouterr().out


def test_its_flags_are_checked_at_once(
    added: KernelSampler, toy_flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfgradgen.cli.commands.start_tensorflow", lambda: pytest.fail("TensorFlow was started"))
    asked = ["sample", "--label=goldfish", *toy_flags]
    said = refused([*asked, "--kernel=random_walk", "--scale=4"], capsys)
    assert "scale: expected a number above 0 and below 4, got 4" in said
    assert "scale: expected a flag that --kernel=mala uses" in refused([*asked, "--kernel=mala", "--scale=2"], capsys)
    assert "did you mean random_walk" in refused([*asked, "--kernel=random_wlak"], capsys)


def test_a_search_varies_its_settings(added: KernelSampler) -> None:
    assert check_tunable("random_walk") == "random_walk"
    assert "scale" in searched("random_walk")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposed = [recipe for _ in range(20) if (recipe := suggest(study.ask(), "random_walk", 300.0))]
    scales = {recipe.config.to_dict()["scale"] for recipe in proposed}
    assert len(scales) == len(proposed) > 5
    assert all(0.5 <= scale <= 2.0 for scale in scales)


def test_the_contract_of_all_kernels_is_asked_of_it(added: KernelSampler) -> None:
    assert families_of(lambda family: family is added) == {"random_walk": added}
    contract = Contract()
    contract.test_evaluations_are_counted(added)
    contract.test_rebuilt_from_its_parameters_it_is_the_same_kernel(added)
    contract.test_one_step_size_for_all_chains_is_frozen_after_adaptation(added)
    contract.test_defaults_are_complete(added)


def test_it_samples_through_the_command(added: KernelSampler, toy_flags: list[str]) -> None:
    main(["sample", "--label=goldfish", "--kernel=random_walk", "--scale=0.5", *toy_flags, *FAST])
    record = json.loads(Path("out/goldfish-random_walk-0/run.json").read_text())
    assert record["arguments"]["kernel_config"]["scale"] == 0.5
    assert record["statistics"]["class_prob"]


def test_its_file_is_read_without_tensorflow(added: KernelSampler, tmp_path: Path) -> None:
    code = "import sys, random_walk; assert 'tensorflow' not in sys.modules and random_walk.SAMPLER.is_tuned"
    path = {"PYTHONPATH": f"{tmp_path / 'mcmc'}:{Path(tfgradgen.mcmc.__path__[0]).parents[1]}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=path)
