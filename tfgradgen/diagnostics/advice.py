"""Properties of a run besides its draws, and the price of the remedies that a warning proposes."""

import math
import re
from typing import NamedTuple

from tfgradgen.core.contracts import FORWARD_COST, SamplerKind
from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium

MIN_MASS = 0.001  # rejection is advised if it accepts at least this share of the prior draws
# Least number of prior draws whose mean p(class) is used. Of fewer, too often none shows the class, or one decides the mean.
MIN_PRIOR_DRAWS = 200
EXACT_DRAWS = 32  # for which the price of rejection is given: those of a default run
INDEPENDENT: tuple[SamplerKind, ...] = ("exact", "fitted")  # kinds of independent draws
MOST_TIMES = 1000.0  # most times the draws that are still useful advice
_TIME = re.compile(r"(?<![\w.+-])(\d{1,9}(?:\.\d{1,6})?) times the time")


class Run(NamedTuple):
    """Properties of a run besides its draws.

    Attributes:
      kind: See `mcmc.sampler.Sampler`.
      is_calibrated: Whether the sampler leaves the posterior invariant.
      has_step: Whether it has a step size.
      target_accept_prob: Target of the adaptation of the step size; None if nothing was adapted.
      num_burnin_steps: Burn-in transitions per chain.
      num_adaptation_steps: Adaptation steps per chain.
      num_sharing: Number of chains that adapted a step size together.
      is_divided: Whether the chains ran in blocks (--block), which share no step size.
      num_exact: Number of chains that started at exact draws of the posterior; None if they were not meant to.
      is_learned: Whether the kernel learned something from the draws where its chains start.
      has_burnin: Whether the kernel takes --num_burnin_steps.
      takes_init: Whether the kernel takes --init.
      better: Settings of the kernel that, if raised, make its proposals better.
      chosen: The kernel, if --kernel=auto chose it; '' otherwise.
      is_dispersed: Whether the starts were dispersed. If not, chains may agree because none has left their common first mode.
      is_near: Whether all chains started at one draw of another run, so that their images lie near it.
      is_regularized: Whether the target has a penalty on the distance to the class mean.
      mass: Lower bound on the share of prior draws that rejection accepts; None if it is unknown or rejection cannot run.
      work: Cost of the whole run, in gradients.
      medium: What its draws are shown as.
    """

    kind: SamplerKind = "chain"
    is_calibrated: bool = True
    has_step: bool = True
    target_accept_prob: float | None = None
    num_burnin_steps: int = 0
    num_adaptation_steps: int = 0
    num_sharing: int = 16
    is_divided: bool = False
    num_exact: int | None = None
    is_learned: bool = False
    has_burnin: bool = True
    takes_init: bool = True
    better: tuple[str, ...] = ()
    chosen: str = ""
    is_dispersed: bool = True
    is_near: bool = False
    is_regularized: bool = False
    mass: float | None = None
    work: float = 0.0
    medium: Medium = Image(())

    @property
    def is_independent(self) -> bool:
        """Whether its draws are independent, so that R-hat and ESS are not informative."""
        return self.kind in INDEPENDENT

    @property
    def units(self) -> str:
        return "populations" if self.kind == "particles" else "chains"


def accepted_mass(class_prob: float | None, temperature: float) -> float | None:
    """Return a lower bound on the mean of p(class) ** (1 / temperature) over the prior.

    The bound is Jensen's for a power above 1, and `class_prob` otherwise.

    Args:
      class_prob: Mean of p(class) over the prior.
      temperature: > 0.

    Returns:
      The bound; None if `class_prob` is None or not in [0, 1].
    """
    if class_prob is None or not 0 <= class_prob <= 1:
        return None
    return float(class_prob ** max(1 / temperature, 1.0))


def smaller_steps(run: Run) -> str:
    """Return the advice for smaller steps. If the step size is adapted, `--step_size` sets only its first value.

    A kernel without steps needs better proposals, or more draws.
    """
    if not run.has_step:
        *first, last = (f"--{name}" for name in run.better or ("num_results",))
        return f"raise {', '.join(first)} or {last}" if first else f"raise {last}"
    return "lower --step_size" if run.target_accept_prob is None else "raise --target_accept_prob"


def too_large(run: Run) -> str:
    """Return why a chain hardly moves, if the kernel has steps, and the advice of `smaller_steps`."""
    return f"{'the steps are too large there; ' if run.has_step else ''}{smaller_steps(run)}"


def by_name(run: Run) -> str:
    """Return `with --kernel=..., ` before a flag that --kernel=auto refuses, if it chose the kernel; '' otherwise."""
    return f"with --kernel={run.chosen}, " if run.chosen else ""


def longer(run: Run, num_results: int) -> str:
    """Return the advice that lets chains forget their starts, with its price."""
    if not run.has_burnin:
        return f"raise --num_results ({again(2)} or more)"
    steps = max(4 * run.num_burnin_steps, num_results)
    price = again((steps + num_results) / (run.num_burnin_steps + num_results))
    return f"{by_name(run)}raise --num_burnin_steps to {steps} ({price})"


def again(times: float = 1.0) -> str:
    """Return the price of a run `times` as long as this one, in units of its time (see `priced`)."""
    times = min(times, 1e8)  # `priced` reads nine digits
    shown = f"{times:.2g}" if 1e-3 <= times < 10 else f"{max(times, 0.001):.3f}" if times < 1 else f"{times:.0f}"
    return f"{shown} times the time"


def more_draws(times: float, run: Run, num_results: int) -> str:
    """Return the advice to take `times` as many draws, with its price."""
    if times > MOST_TIMES:
        return f"it would take more than {MOST_TIMES:.0f} times the draws"
    wanted, before = math.ceil(times * num_results), run.num_burnin_steps
    length = (before + wanted) / (before + num_results)
    shown = f"{times:.2g}" if times < 10 else f"{times:.0f}"
    return f"raise --num_results to {wanted} ({shown} times the draws, {again(length)})"


def cheaper(run: Run) -> str:
    """Return `, or take --kernel=rejection ...` with its price if the class is common enough for exact draws; '' otherwise."""
    if run.kind == "exact" or run.mass is None or run.mass < MIN_MASS:
        return ""
    price = f", {again(EXACT_DRAWS / run.mass * FORWARD_COST / run.work)}" if run.work else ""
    return f", or take --kernel=rejection ({EXACT_DRAWS} exact draws{price})"


def priced(text: str, seconds: float) -> str:
    """Return `text` with times for this machine: `8 times the time` of a run of `seconds` becomes `about 6 minutes`.

    run.json keeps the original text, which is the same on every machine.
    """
    return _TIME.sub(lambda match: duration(float(match[1]) * seconds), text)


def duration(seconds: float) -> str:
    """Return `seconds` in words, such as `about 6 minutes`."""
    for unit, name, most in ((1, "s", 90), (60, "minutes", 90 * 60), (3600, "hours", 48 * 3600)):
        if seconds < most:
            return f"about {max(round(seconds / unit), 1)} {name}"
    return f"about {seconds / 86400:.0f} days"
