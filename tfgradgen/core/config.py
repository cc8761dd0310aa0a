"""Small frozen settings, checked on construction and written beside the output. What every sampler has in common; the settings
of one are declared in its own file (`tfgradgen.mcmc`)."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, ClassVar

from tfgradgen.core.checks import UserError, check_real, fail
from tfgradgen.core.contracts import Init, Jit
from tfgradgen.core.settings import Search, check_settings, choice, real, whole
from tfgradgen.core.text import value_text

MAX_COUNT = 10**9  # transitions: more than any run makes, few enough for int32
MAX_FLOAT32 = 3.4028235e38  # bound of a finite float32
REMOVED = {"num_windows": "all coordinates have the same step size now; leave it out"}  # settings of earlier versions


@dataclass(frozen=True)
class KernelConfig:
    """Settings of one sampler; each has a class of its own, whose fields are its flags (see `core.settings`)."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def needs_class_moments(self) -> bool:
        """Whether the kernel wants mean and deviation of the class's exact draws."""
        return False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepConfig(KernelConfig):
    """A step size, and the acceptance that it is tuned to."""

    step_size: float = real(
        help="initial distance of one step in z, the same unit for every kernel",
        search=Search(0.1, 5.0, log=True, relative=True),
        held="step",
    )
    target_accept_prob: float = real(
        low=0.0, high=1.0, help="acceptance to tune for", search=Search(0.25, 0.9), held="adaptation"
    )


@dataclass(frozen=True)
class AdaptedConfig(StepConfig):
    """How the step size of all chains is tuned, the same for every kernel that has this.

    The mean acceptance of the healthy chains decides. While it is tuned, the step size depends on where the chains are, which
    biases the draws the more, the fewer chains there are: one chain tunes by its own acceptance alone. So run several, or with
    one chain give a step size and no adaptation steps.

    The ways to adapt are 'dual_averaging' (Nesterov 2009; Hoffman and Gelman 2014, whose gamma, kappa and t0 are the three
    settings that follow it) and 'simple' (Andrieu and Thoms 2008).
    """

    _: KW_ONLY
    adaptation: str = choice(
        "dual_averaging", choices=("dual_averaging", "simple"), is_searched=True, help="how the step size is tuned"
    )
    # The mean acceptance of few chains is noisy, and averaging the log of a step size that swings with it ends up too small: of
    # one chain, at TFP's 0.05, acceptance after 150 steps was 0.65 (mala) and 0.80 (hmc) for targets of 0.574 and 0.651 on a
    # normal; at 0.2, 0.59 and 0.74.
    exploration_shrinkage: float = real(
        0.2,
        help="dual_averaging: the larger, the less a step size follows the acceptance of single proposals",
        search=Search(0.05, 0.8, log=True),
        held="adaptation",
    )
    decay_rate: float = real(
        0.75,
        low=0.5,
        high=1.0,
        help="dual_averaging: the larger, the less the early steps count in the average that is kept",
        search=Search(0.55, 0.95),
        held="adaptation",
    )
    step_count_smoothing: int = whole(
        10,
        low=1,
        high=1000,
        help="dual_averaging: steps that are counted as done before the first",
        search=Search(2, 40, log=True),
        held="adaptation",
    )
    adaptation_rate: float = real(
        0.1,
        low=0.0,
        high=1.0,
        help="simple: each step multiplies or divides the step size by 1 + adaptation_rate",
        search=Search(0.02, 0.5, log=True),
        held="adaptation",
    )

    # What each way to adapt has no use for.
    idle: ClassVar[dict[str, tuple[str, ...]]] = {
        "dual_averaging": ("adaptation_rate",),
        "simple": ("exploration_shrinkage", "decay_rate", "step_count_smoothing"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.idle[self.adaptation]:
            value, common = getattr(self, name), getattr(AdaptedConfig, name)
            if value == getattr(type(self), name):  # the sampler's own default: not given
                object.__setattr__(self, name, common)
            elif value != common:
                other = next(way for way, names in self.idle.items() if name not in names)
                remedy = f"leave it out, or give --adaptation={other}"
                raise fail(name, f"a setting that adaptation '{self.adaptation}' uses", value, remedy)


def changed_config(config: KernelConfig, values: Mapping[str, Any]) -> KernelConfig:
    """`config` but for `values`, of which those that are no settings of it are left out; another way to adapt begins with its
    own defaults.

    Raises:
      UserError: a value is out of its range.
    """
    own = config.to_dict()
    way = values.get("adaptation")
    for name in AdaptedConfig.idle.get(way, ()) if isinstance(way, str) else ():
        own[name] = getattr(AdaptedConfig, name)
    return type(config)(**{name: values.get(name, value) for name, value in own.items()})


@dataclass(frozen=True)
class Schedule:
    """How many transitions of each kind a run makes.

    num_results: kept draws of each chain, 1..10**9.
    num_burnin_steps: discarded first transitions, 0..10**9.
    num_adaptation_steps: how many of the discarded transitions tune the step size, 0..num_burnin_steps; after them the
      step size is frozen.
    """

    num_results: int = whole(low=1, high=MAX_COUNT, shown="N", help="kept draws of each chain; of smc, particles")
    num_burnin_steps: int = whole(low=0, high=MAX_COUNT, shown="N", help="discarded first steps")
    num_adaptation_steps: int = whole(low=0, high=MAX_COUNT, shown="N", help="how many of the burn-in steps tune the step size")

    def __post_init__(self) -> None:
        check_settings(self)
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


def _point(values: Any) -> tuple[float, ...]:
    """The numbers of a latent point, finite in float32.

    Raises:
      UserError: `values` are no such numbers.
    """
    try:
        numbers = tuple(check_real("init_z", number, -MAX_FLOAT32, MAX_FLOAT32) for number in values)
    except (TypeError, UserError):
        numbers = ()
    if not numbers:
        raise fail("init_z", "a latent point, a sequence of finite numbers", value_text(values), "give one number a dimension")
    return numbers


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run that no kernel sees.

    num_chains: independent chains, 1..4096.
    temperature: the likelihood enters as likelihood ** (1 / temperature); > 0; 1 is the posterior.
    seed: 0..2**62 - 1; a run is repeatable bit for bit on the same machine and backend.
    jit: 'auto' (XLA where there is a GPU), True or False.
    init: 'resample' (each chain starts at an exact draw, found among its own `num_init_draws` prior draws, or at a likely one
      where the class is too rare; see `starts`), 'prior', or 'given', at `init_z`, the latent point [latent_dim] at which all
      chains start.
    """

    num_chains: int = whole(16, low=1, high=4096, help="independent chains, a picture of each")
    temperature: float = real(1.0, help="the likelihood enters as likelihood ** (1 / temperature)")
    seed: int = whole(
        0,
        low=0,
        high=2**62 - 1,
        help="same seed, machine and backend: the same samples.npz, bit for bit. No two classes share an exact draw, but for "
        "temperatures above 1. The chains of a label start at the same points alone and in a batch of several labels, and go "
        "on with the noise of the batch",
    )
    jit: Jit = choice(
        "auto", choices=("auto", True, False), is_told=True, help="XLA: auto (where there is a GPU), true or false"
    )
    init: Init = choice(
        "resample",
        choices=("resample", "prior", "given"),
        is_told=True,
        is_text=True,
        help="where chains start. resample: at exact draws of the class, found among 256 prior draws each, or at likely ones "
        "where the class is too rare; prior: at any prior draw; PICTURE: all at that photograph's latent point, by the "
        "generator's own encoder (BigBiGAN's)",
    )
    init_z: tuple[float, ...] | None = None

    num_init_draws: ClassVar[int] = 256

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.init == "given") != (self.init_z is not None):
            expected, got = "init='given' and init_z together, or neither", f"init={self.init!r} and init_z={self.init_z!r}"
            raise fail("init_z", expected, got, "give both to start at a point, or leave both out")
        if self.init_z is not None:
            object.__setattr__(self, "init_z", _point(self.init_z))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
