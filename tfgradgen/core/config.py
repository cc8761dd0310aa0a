"""Small frozen settings, checked on construction and recorded with the output.

This file holds what all samplers share. The settings of one sampler are declared in its own file (`tfgradgen.mcmc`).
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, ClassVar

from tfgradgen.core.checks import UserError, check_real, fail
from tfgradgen.core.contracts import Init, Jit
from tfgradgen.core.settings import Search, check_settings, choice, real, whole
from tfgradgen.core.text import value_text

MAX_COUNT = 10**9  # transitions: more than any run makes, and within int32
MAX_FLOAT32 = 3.4028235e38  # the largest finite float32
MIN_TEMPERATURE = 1e-30  # below, float32 could make the tempered likelihood infinite
REMOVED = {"num_windows": "all coordinates have the same step size now; leave it out"}  # settings of earlier versions


@dataclass(frozen=True)
class KernelConfig:
    """Settings of one sampler. Each sampler has a subclass, whose fields are its flags (see `core.settings`)."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def needs_class_moments(self) -> bool:
        """Whether the kernel needs the mean and standard deviation of exact draws of the class."""
        return False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepConfig(KernelConfig):
    """A step size and its target acceptance probability."""

    step_size: float = real(
        help="initial step size in z, in the same unit for every kernel",
        search=Search(0.1, 5.0, log=True, relative=True),
        held="step",
    )
    target_accept_prob: float = real(
        low=0.0, high=1.0, help="target acceptance probability of the tuning", search=Search(0.25, 0.9), held="adaptation"
    )


@dataclass(frozen=True)
class AdaptedConfig(StepConfig):
    """Adaptation of the step size that all chains share. The same for every kernel that adapts.

    The mean acceptance of the healthy chains controls the step size. During adaptation the step size depends on the positions
    of the chains, which biases the draws. The bias is largest with one chain, which tunes by its own acceptance alone. Run
    several chains, or give one chain a fixed step size and no adaptation steps.

    Adaptation is 'dual_averaging' (Nesterov 2009; Hoffman and Gelman 2014) or 'simple' (Andrieu and Thoms 2008).
    `exploration_shrinkage`, `decay_rate` and `step_count_smoothing` are gamma, kappa and t0 of dual averaging.
    """

    _: KW_ONLY
    adaptation: str = choice(
        "dual_averaging", choices=("dual_averaging", "simple"), is_searched=True, help="how the step size is tuned"
    )
    # TFP's default is 0.05. The mean acceptance of few chains is noisy, the step size follows the noise, and the average of its
    # log comes out too small. One chain on a normal target, after 150 steps, with target acceptance 0.574 (mala) and 0.651
    # (hmc): acceptance is 0.65 and 0.80 at 0.05, and 0.59 and 0.74 at 0.2.
    exploration_shrinkage: float = real(
        0.2,
        help="dual_averaging: larger values make the step size react less to single proposals",
        search=Search(0.05, 0.8, log=True),
        held="adaptation",
    )
    decay_rate: float = real(
        0.75,
        low=0.5,
        high=1.0,
        help="dual_averaging: larger values give early steps less weight in the final average",
        search=Search(0.55, 0.95),
        held="adaptation",
    )
    step_count_smoothing: int = whole(
        10,
        low=1,
        high=1000,
        help="dual_averaging: number of pseudo-steps that damp the first steps",
        search=Search(2, 40, log=True),
        held="adaptation",
    )
    adaptation_rate: float = real(
        0.1,
        low=0.0,
        high=1.0,
        help="simple: each transition multiplies or divides the step size by 1 + adaptation_rate",
        search=Search(0.02, 0.5, log=True),
        held="adaptation",
    )

    # Settings that each adaptation scheme ignores.
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
    """Return `config` updated with `values`; names that are not settings of it are ignored.

    A change of `adaptation` resets the settings that the new scheme ignores.

    Raises:
      UserError: A value is out of range.
    """
    own = config.to_dict()
    way = values.get("adaptation")
    for name in AdaptedConfig.idle.get(way, ()) if isinstance(way, str) else ():
        own[name] = getattr(AdaptedConfig, name)
    return type(config)(**{name: values.get(name, value) for name, value in own.items()})


@dataclass(frozen=True)
class Schedule:
    """Numbers of transitions in a run.

    Attributes:
      num_results: Kept draws of each chain, 1..10**9.
      num_burnin_steps: Transitions discarded at the start, 0..10**9.
      num_adaptation_steps: How many of the discarded transitions tune the step size, 0..num_burnin_steps. The step size is
        fixed afterwards.
      is_open: Whether something else ends the run before `num_results` does, so that its length is not known.
    """

    is_open: ClassVar[bool] = False

    num_results: int = whole(low=1, high=MAX_COUNT, shown="N", help="draws kept of each chain (smc: particles)")
    num_burnin_steps: int = whole(low=0, high=MAX_COUNT, shown="N", help="transitions discarded at the start")
    num_adaptation_steps: int = whole(
        low=0, high=MAX_COUNT, shown="N", help="number of the discarded transitions that tune the step size"
    )

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
    """Return the coordinates of a latent point; raise `UserError` unless all are finite in float32."""
    try:
        numbers = tuple(check_real("init_z", number, -MAX_FLOAT32, MAX_FLOAT32) for number in values)
    except (TypeError, UserError):
        numbers = ()
    if not numbers:
        expected = "a latent point, a sequence of finite numbers"
        raise fail("init_z", expected, value_text(values), "give one number per dimension")
    return numbers


KINDS_OF_START = ("resample", "prior", "annealed")  # of `RunConfig.init`, besides 'given'


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run that are independent of the kernel.

    Attributes:
      num_chains: Number of independent chains, 1..4096.
      temperature: > 0. The likelihood enters as likelihood ** (1 / temperature); 1 gives the posterior.
      seed: 0..2**62 - 1. A run is repeatable bit for bit on the same machine and backend.
      jit: 'auto' (XLA if there is a GPU), True or False.
      init: 'resample' (each chain starts at an exact draw, found among its own `num_init_draws` prior draws, or at a likely
        one if the class is too rare; see `starts`), 'prior' (at any prior draw), 'annealed' (at particles that move from the
        prior to the class while the temperature falls; see `annealing`) or 'given' (at `init_z`).
      init_z: The latent point [latent_dim] at which all chains start if `init` is 'given'; otherwise None.
    """

    num_chains: int = whole(16, low=1, high=4096, help="number of independent chains; each gives one draw of the grid")
    temperature: float = real(
        1.0,
        help="the likelihood enters as likelihood ** (1 / temperature); lower values favour draws that the classifier is surer "
        "of",
    )
    seed: int = whole(
        0,
        low=0,
        high=2**62 - 1,
        help="seed of all random numbers. The same seed, machine and backend give the same samples.npz, bit for bit. The "
        "chains of a label start at the same points alone and in a batch of several labels; their later noise depends on the "
        "batch",
    )
    jit: Jit = choice(
        "auto",
        choices=("auto", True, False),
        states_bounds=True,
        help="compile with XLA: auto (if there is a GPU), true or false",
    )
    init: Init = choice(
        "resample",
        choices=(*KINDS_OF_START, "given"),
        states_bounds=True,
        is_text=True,
        help="where chains start. resample: each at an exact draw, found among 256 prior draws of its own, or at a likely one "
        "if the class is too rare. prior: at a prior draw. annealed: at particles that move from the prior to the class while "
        "the temperature falls, for classes too rare to draw. IMAGE: all at the latent point whose image is nearest to this "
        "image file, by the generator's encoder (BigBiGAN) or else by optimization",
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

    @property
    def starts_take_gradients(self) -> bool:
        """Whether the starts of chains need gradients of the target, whatever the kernel needs."""
        return self.init == "annealed"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
