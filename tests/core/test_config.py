"""Ranges are checked on construction, with the same wording everywhere."""

import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from tfgradgen.core.checks import UserError, check_choice, did_you_mean, fail
from tfgradgen.core.config import RunConfig, Schedule, StepConfig, changed_config
from tfgradgen.core.settings import settings_of
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.mala import MalaConfig
from tfgradgen.mcmc.map_ascent import MapConfig
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler
from tfgradgen.mcmc.smc import SmcConfig


def test_an_error_is_one_line_with_name_expectation_value_and_remedy() -> None:
    text = str(fail("num_chains", "an integer", "'a\nb'", "give one"))
    assert text == "num_chains: expected an integer, got 'a b'; give one."


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_size", 0.0),
        ("step_size", -1.0),
        ("step_size", math.nan),
        ("step_size", math.inf),
        ("step_size", "0.1"),
        ("target_accept_prob", 0.0),
        ("target_accept_prob", 1.0),
        ("num_leapfrog_steps", 0),
        ("num_leapfrog_steps", 2.0),
        ("num_leapfrog_steps", True),
    ],
)
def test_kernel_config_refuses(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field}: expected .*, got .*; "):
        HmcConfig(**{"step_size": 0.1, "target_accept_prob": 0.6, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", "sgd"),
        ("objective", "logits"),
        ("class_reg", -0.1),
        ("l2_decay", 1.0),
        ("clip_sigma", -1),
        ("clip_around", "posterior"),
        ("clip_around", "class"),
    ],
)
def test_map_config_refuses(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field}: expected .*, got .*; "):
        MapConfig(**{"step_size": 0.1, field: value})


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_every_setting_of_every_sampler_is_declared_with_help_and_bounds(sampler: Sampler) -> None:
    declared = settings_of(sampler.defaults)
    assert list(declared) == [field.name for field in fields(sampler.defaults)]
    for name, setting in declared.items():
        assert setting.help
        assert setting.bounds or setting.kind == "switch", name
        outside = "none of them" if setting.kind == "choice" else setting.low - 1
        with pytest.raises(UserError, match=f"^{name}: expected "):
            replace(sampler.defaults, **{name: outside})


def test_a_search_stays_within_the_bounds_of_its_setting() -> None:
    declared = [each for sampler in SAMPLERS.values() for each in settings_of(sampler.defaults).items()]
    searched = [(name, setting) for name, setting in declared if setting.search]
    assert len(searched) > 30
    for name, setting in searched:
        for value in setting.search[:2]:
            setting.check(name, int(value) if setting.kind == "whole" else value)


def test_the_class_moments_are_wanted_only_where_they_are_used() -> None:
    assert not MapConfig(0.1, clip_sigma=2.0).needs_class_moments
    assert MapConfig(0.1, clip_sigma=2.0, clip_around="class").needs_class_moments
    assert MapConfig(0.1, class_reg=0.1).needs_class_moments
    assert not SmcConfig(0.1, 0.5).needs_class_moments


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_chains", 0),
        ("num_chains", 1000.0),
        ("temperature", 0),
        ("seed", -1),
        ("seed", 2**62),
        ("jit", "yes"),
        ("jit", 1),
        ("init", "warm"),
    ],
)
def test_run_config_refuses(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field}: expected "):
        RunConfig(**{field: value})


@pytest.mark.parametrize("point", [(math.nan,), (0.0, math.inf), (1e39,), (), "ab", ("1",), 3, (True,)])
def test_a_latent_point_is_finite_numbers(point: Any) -> None:
    with pytest.raises(UserError, match=r"^init_z: expected a latent point, a sequence of finite numbers, got "):
        RunConfig(init="given", init_z=point)


def test_a_latent_point_is_stored_as_numbers_of_python() -> None:
    assert RunConfig(init="given", init_z=np.float32([0.5, -2])).init_z == (0.5, -2.0)  # type: ignore[arg-type]


def test_a_latent_point_comes_with_its_init() -> None:
    for given in ({"init_z": (0.0,)}, {"init": "given"}):
        with pytest.raises(
            UserError, match=r"^init_z: expected init='given' and init_z together, or neither, got .*"
        ) as caught:
            RunConfig(**given)  # type: ignore[arg-type]
        assert "IMAGE" not in str(caught.value)


@pytest.mark.parametrize(
    "counts", [(0, 0, 0), (1, -1, 0), (1, 5, 6), (1, 5, -1), (1.5, 0, 0), (2**70, 0, 0), (1, 10**9 + 1, 0)]
)
def test_schedule_refuses(counts: tuple[Any, Any, Any]) -> None:
    with pytest.raises(UserError):
        Schedule(*counts)


def test_schedule_counts_all_transitions_and_settings_are_records() -> None:
    schedule = Schedule(num_results=3, num_burnin_steps=5, num_adaptation_steps=4)
    assert schedule.num_steps == 8
    assert schedule.to_dict() == {"num_results": 3, "num_burnin_steps": 5, "num_adaptation_steps": 4}
    assert RunConfig(seed=7).to_dict()["seed"] == 7
    assert HmcConfig(0.1, 0.5).to_dict()["num_leapfrog_steps"] == 3


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (MalaConfig(np.float32(0.25), np.float64(0.5)), MalaConfig(0.25, 0.5)),
        (HmcConfig(0.1, 0.5, num_leapfrog_steps=np.int64(2)), HmcConfig(0.1, 0.5, 2)),
        (Schedule(np.int64(3), np.uint8(2), np.int32(1)), Schedule(3, 2, 1)),
        (RunConfig(seed=np.int64(1), temperature=np.float32(1), num_chains=np.int8(4)), RunConfig(4, 1.0, 1)),
    ],
)
def test_numbers_of_numpy_are_stored_as_python_s(record: Any, expected: Any) -> None:
    assert json.dumps(record.to_dict()) == json.dumps(expected.to_dict())


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_what_is_not_given_is_the_sampler_s_default(sampler: Sampler) -> None:
    kind = type(sampler.defaults)
    if sampler.name != "split_hmc":  # its class is hmc's
        assert kind() == sampler.defaults
    if isinstance(sampler.defaults, StepConfig):
        assert kind(step_size=0.25) == replace(kind(), step_size=0.25)
        assert list(settings_of(kind))[:2] == ["step_size", "target_accept_prob"], "by position, these come first"


def test_another_way_to_adapt_has_no_use_for_the_defaults_of_this_one() -> None:
    simple = MalaConfig(adaptation="simple")
    assert simple == changed_config(MalaConfig(), {"adaptation": "simple"})
    assert MalaConfig().exploration_shrinkage == 0.208
    with pytest.raises(UserError, match="decay_rate: expected a setting that adaptation 'simple' uses"):
        MalaConfig(adaptation="simple", decay_rate=0.8)


def test_choices_are_typed_and_the_nearest_are_named() -> None:
    with pytest.raises(UserError, match=r"did you mean hmc\?$"):
        check_choice("kernel", "hcm", ("mala", "hmc"))
    with pytest.raises(UserError):
        check_choice("overwrite", 1, (True, False))
    assert did_you_mean("zzz", ["mala"]) == ""
