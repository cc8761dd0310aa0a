"""Small frozen settings, checked on construction and written beside the output."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from tfgradgen.checks import check_choice, check_int, check_real, fail


@dataclass(frozen=True)
class KernelConfig:
    """Settings of one transition rule.

    step_size: initial distance of one step in z, > 0; adapted during the adaptation steps.
    target_accept_prob: acceptance that adaptation aims at, in (0, 1).
    num_leapfrog_steps: gradients in one transition, >= 1; mala has one.
    """

    step_size: float
    target_accept_prob: float
    num_leapfrog_steps: int = 1

    def __post_init__(self) -> None:
        check_real("step_size", self.step_size, 0.0)
        check_real("target_accept_prob", self.target_accept_prob, 0.0, 1.0)
        check_int("num_leapfrog_steps", self.num_leapfrog_steps, 1, 1000)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Schedule:
    """How many transitions of each kind a run makes.

    num_results: kept draws of each chain, >= 1.
    num_burnin_steps: discarded first transitions, >= 0.
    num_adaptation_steps: how many of the discarded transitions tune the step size, 0..num_burnin_steps; after them the
      step size is frozen.
    """

    num_results: int
    num_burnin_steps: int
    num_adaptation_steps: int

    def __post_init__(self) -> None:
        check_int("num_results", self.num_results, 1)
        check_int("num_burnin_steps", self.num_burnin_steps, 0)
        check_int("num_adaptation_steps", self.num_adaptation_steps, 0)
        if self.num_adaptation_steps > self.num_burnin_steps:
            raise fail(
                "num_adaptation_steps",
                f"at most num_burnin_steps={self.num_burnin_steps}",
                self.num_adaptation_steps,
                "adaptation is part of the burn-in, so raise --num_burnin_steps too",
            )

    @property
    def num_steps(self) -> int:
        return self.num_burnin_steps + self.num_results

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run that no kernel sees.

    num_chains: independent chains, 1..4096.
    temperature: the likelihood enters as likelihood ** (1 / temperature); > 0; 1 is the posterior.
    seed: 0..2**62 - 1; a run is repeatable bit for bit on the same machine and backend.
    jit: 'auto' (XLA where there is a GPU), True or False.
    init: 'resample' (each chain starts at one of its own `num_init_draws` prior draws, picked with weight p(class)) or
      'prior'.
    """

    num_chains: int = 16
    temperature: float = 1.0
    seed: int = 0
    jit: bool | str = "auto"
    init: str = "resample"

    num_init_draws: ClassVar[int] = 256

    def __post_init__(self) -> None:
        check_int("num_chains", self.num_chains, 1, 4096)
        check_real("temperature", self.temperature, 0.0)
        check_int("seed", self.seed, 0, 2**62 - 1)
        check_choice("jit", self.jit, ("auto", True, False))
        check_choice("init", self.init, ("resample", "prior"))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
