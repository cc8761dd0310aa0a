"""What a run knows of itself besides its draws, and what its remedies cost: the advice of a warning comes with its price."""

import math
import re
from typing import NamedTuple

from tfgradgen.core.contracts import FORWARD_COST, SamplerKind

MIN_MASS = 0.001  # of the prior draws that rejection accepts: where it accepts fewer, other methods are cheaper
EXACT_DRAWS = 100  # that rejection is priced for
INDEPENDENT: tuple[SamplerKind, ...] = ("exact", "fitted")  # kinds of independent draws
MOST_TIMES = 1000.0  # a run that many times as long is no advice
_TIME = re.compile(r"(?<![\w.+-])(\d{1,9}(?:\.\d{1,6})?) times the time")


class Run(NamedTuple):
    """Of a run, besides its draws.

    kind: see `mcmc.sampler.Sampler`. is_calibrated: whether it leaves the posterior invariant. has_step: whether it has a step
    size. target_accept_prob: of the tuning of that, None where nothing was tuned. num_burnin_steps, num_adaptation_steps: of
    each chain. num_sharing: chains that tuned a step size together. num_exact: chains that started at exact draws of the
    posterior, None where they were not to. is_dispersed: whether chains started apart: if not, they may agree because none has
    left the mode where all began. is_regularized: whether the target has a pull to the class mean. mass: share of the
    prior draws that rejection accepts, at least; None where it cannot run, or nothing is known. work: of the whole run, in
    gradients.
    """

    kind: SamplerKind = "chain"
    is_calibrated: bool = True
    has_step: bool = True
    target_accept_prob: float | None = None
    num_burnin_steps: int = 0
    num_adaptation_steps: int = 0
    num_sharing: int = 16
    num_exact: int | None = None
    is_dispersed: bool = True
    is_regularized: bool = False
    mass: float | None = None
    work: float = 0.0

    @property
    def is_independent(self) -> bool:
        """Whether its draws are independent, so that R-hat and ESS have nothing to tell."""
        return self.kind in INDEPENDENT

    @property
    def units(self) -> str:
        return "populations" if self.kind == "particles" else "chains"


def accepted_mass(class_prob: float | None, temperature: float) -> float | None:
    """The mean of p(class) ** (1 / temperature) over the prior, at least, from that of p(class): Jensen's bound where the power
    is above 1, else p(class) itself."""
    if class_prob is None or not 0 <= class_prob <= 1:
        return None
    return float(class_prob ** max(1 / temperature, 1.0))


def smaller_steps(run: Run) -> str:
    """How to make them smaller. Where the step size is tuned, `--step_size` is only the first one."""
    if not run.has_step:
        return "raise --num_results"
    return "lower --step_size" if run.target_accept_prob is None else "raise --target_accept_prob"


def again(times: float = 1.0) -> str:
    """The price of a run `times` as long as this one, in units of its time (see `priced`)."""
    times = min(times, 1e8)  # `priced` reads nine digits
    shown = f"{times:.2g}" if 1e-3 <= times < 10 else f"{max(times, 0.001):.3f}" if times < 1 else f"{times:.0f}"
    return f"{shown} times the time"


def more_draws(times: float, run: Run, num_results: int) -> str:
    """The advice to draw `times` as many, with its price."""
    if times > MOST_TIMES:
        return f"it would take more than {MOST_TIMES:.0f} times the draws"
    wanted, before = math.ceil(times * num_results), run.num_burnin_steps
    length = (before + wanted) / (before + num_results)
    shown = f"{times:.2g}" if times < 10 else f"{times:.0f}"
    return f"raise --num_results to {wanted} ({shown} times the draws, {again(length)})"


def cheaper(run: Run) -> str:
    """`, or take --kernel=rejection ...` with its price, where the class is common enough for exact draws; else ''."""
    if run.kind == "exact" or run.mass is None or run.mass < MIN_MASS:
        return ""
    price = f", {again(EXACT_DRAWS / run.mass * FORWARD_COST / run.work)}" if run.work else ""
    return f", or take --kernel=rejection ({EXACT_DRAWS} exact draws{price})"


def priced(text: str, seconds: float) -> str:
    """`text` with the times in it as this machine needs them, `about 6 minutes` for `8 times the time` of a run of `seconds`.

    run.json holds `text` itself, which is the same on every machine.
    """
    return _TIME.sub(lambda match: duration(float(match[1]) * seconds), text)


def duration(seconds: float) -> str:
    """`about 6 minutes`."""
    for unit, name, most in ((1, "s", 90), (60, "minutes", 90 * 60), (3600, "hours", 48 * 3600)):
        if seconds < most:
            return f"about {max(round(seconds / unit), 1)} {name}"
    return f"about {seconds / 86400:.0f} days"
