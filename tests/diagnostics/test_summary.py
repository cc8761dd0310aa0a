"""The summary of a run: the digits of its figures, the best estimate under the prior, and what it leaves out."""

from typing import Any

import numpy as np
import pytest

from tests.support.records import a_record, some_draws
from tfgradgen.diagnostics.advice import MIN_PRIOR_DRAWS
from tfgradgen.results.record import run_record
from tfgradgen.results.summary import measured

AUTO = {"kernel": "mala", "mass": 0.01671, "error": 0.0015, "num_draws": 4096, "why": ""}


def record_with(planned: dict[str, Any] | None = None, **stats: Any) -> dict[str, Any]:
    """Return run.json of a made-up run of mala."""
    known = {"prior_class_prob": 0.0228, "prior_class_prob_error": 0.0042, "prior_draws": 768}
    cost = {"num_gradients": 100, "num_forward": 5, "seconds": 1.5}
    return run_record(a_record() | (planned or {}), some_draws(), {**known, **cost, **stats})


def line_of(record: dict[str, Any], heading: str) -> str:
    (line,) = [line for line in measured(record) if line.startswith(heading)]
    return line


@pytest.mark.parametrize(
    ("mean", "error", "shown"),
    [
        (0.5644, 0.0312, "0.564 +- 0.031"),
        (0.01712, 0.00094, "0.017 +- 0.001"),
        (0.5, 0.0, "0.500 +- 0.000"),
        (0.5, None, "0.500 +- unknown"),
        (0.012345, 4.4e-5, "0.012345 +- 4.4e-05"),
        (2.3456e-4, 4.4e-5, "2.35e-04 +- 4.4e-05"),
        (2.3e-5, 4.4e-5, "2.3e-05 +- 4.4e-05"),
        (2.3e-4, 0.02, "2.3e-04 +- 0.020"),
        (0.0, 1e-9, "0.0e+00 +- 1.0e-09"),
    ],
)
def test_a_mean_has_the_digits_of_its_error(mean: float, error: float | None, shown: str) -> None:
    record = record_with(prior_class_prob=mean, prior_class_prob_error=error)
    record["mean_class_prob"], record["statistics"]["class_prob"]["standard_error"] = mean, error
    assert line_of(record, "p(class)") == f"p(class) mean {shown}; under the prior {shown} (768 draws)"


def test_a_few_prior_draws_are_no_estimate() -> None:
    few = record_with(prior_class_prob=2.25e-4, prior_draws=5)
    assert line_of(few, "p(class)").endswith("under the prior unknown")
    assert few["prior_class_prob"] == 2.25e-4, "run.json keeps the number"
    assert "under the prior 0.023" in line_of(record_with(prior_draws=MIN_PRIOR_DRAWS), "p(class)")


def test_the_estimate_is_the_one_by_which_auto_chose_if_it_is_better() -> None:
    def shown(**stats: Any) -> str:
        record = record_with({"auto": AUTO, **stats.pop("planned", {})}, **stats)
        return line_of(record, "p(class)").split("under the prior ")[1]

    assert shown() == "0.017 +- 0.002 (4096 draws)"
    assert shown(prior_draws=5) == "0.017 +- 0.002 (4096 draws)"
    other = "0.023 +- 0.004 ({} draws)"
    assert shown(prior_draws=30720) == other.format(30720)
    warm = a_record()["arguments"] | {"temperature": 2.0}
    assert shown(planned={"arguments": warm}) == other.format(768), "the choice is by another power of p(class)"
    both = {"index": [0, 1, 1], "name": "two labels", "wnid": ""}
    assert shown(planned={"label": both}) == other.format(768), "the choice is by the rarest label"


def test_a_target_of_the_acceptance_is_shown_only_if_something_was_tuned() -> None:
    assert "acceptance 0.50 (target 0.44), step size" in line_of(record_with(accept_rate=0.5), "moved")
    schedule = {"schedule": {"num_results": 8, "num_burnin_steps": 2, "num_adaptation_steps": 0}}
    fixed = record_with({"arguments": a_record()["arguments"] | schedule}, accept_rate=0.5)
    assert "acceptance 0.50, step size" in line_of(fixed, "moved")


def test_the_worst_r_hat_is_shown_whatever_it_is_of() -> None:
    record = record_with()
    rhats = {"class_prob": 1.123, "target_log_prob": 1.264, "z": 1.2}
    for name, rhat in rhats.items():
        record["statistics"][name]["rhat"] = rhat
    assert "R-hat 1.123 of p(class), 1.200 of the latent z (worst of 4 coordinates), 1.264 of the log density" in line_of(
        record, "mixing"
    )
    record["statistics"]["z"]["rhat"] = 1.3
    assert "log density" not in line_of(record, "mixing")


def test_counts_of_one_are_singular() -> None:
    record = record_with()
    record["arguments"] |= {"num_chains": 1, "schedule": record["arguments"]["schedule"] | {"num_results": 1}}
    assert "1 chain, 1 draw each" in line_of(record, "ran")
    assert np.isfinite(record["seconds"])
