"""Small frozen settings, checked on construction and written beside the output."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any, ClassVar

from tfgradgen.core.checks import check_choice, check_int, check_real, fail

REMOVED = {"num_windows": "all coordinates have the same step size now; leave it out"}  # settings of earlier versions


@dataclass(frozen=True)
class KernelConfig:
    """Settings of one transition rule; each kernel has a class of its own, whose fields are its flags."""

    checks: ClassVar[dict[str, Callable[[str, Any], Any]]] = {
        "step_size": lambda name, value: check_real(name, value, 0.0),
        "target_accept_prob": lambda name, value: check_real(name, value, 0.0, 1.0),
        "adaptation": lambda name, value: check_choice(name, value, ("dual_averaging", "simple")),
        "exploration_shrinkage": lambda name, value: check_real(name, value, 0.0),
        "decay_rate": lambda name, value: check_real(name, value, 0.5, 1.0),
        "step_count_smoothing": lambda name, value: check_int(name, value, 1, 1000),
        "adaptation_rate": lambda name, value: check_real(name, value, 0.0, 1.0),
        "num_leapfrog_steps": lambda name, value: check_int(name, value, 1, 1000),
        "max_leapfrog_steps": lambda name, value: check_int(name, value, 1, 1000),
        "max_tree_depth": lambda name, value: check_int(name, value, 1, 12),
        "num_replicas": lambda name, value: check_int(name, value, 2, 64),
        "min_inverse_temperature": lambda name, value: check_real(name, value, 0.0, 1.0),
        "num_global_draws": lambda name, value: check_int(name, value, 1, 10_000),
        "num_local_steps": lambda name, value: check_int(name, value, 1, 1000),
        "num_mutations": lambda name, value: check_int(name, value, 1, 1000),
        "ess_share": lambda name, value: check_real(name, value, 0.0, 1.0),
        "optimizer": lambda name, value: check_choice(name, value, ("adam", "normalized")),
        "objective": lambda name, value: check_choice(name, value, ("log_prob", "logit")),
        "class_reg": lambda name, value: check_real(name, value, 0.0, is_low_in=True),
        "l2_decay": lambda name, value: check_real(name, value, 0.0, 1.0, is_low_in=True),
        "clip_sigma": lambda name, value: check_real(name, value, 0.0, is_low_in=True),
        "clip_around": lambda name, value: check_choice(name, value, ("prior", "class")),
    }

    def __post_init__(self) -> None:
        for field in fields(self):
            self.checks[field.name](field.name, getattr(self, field.name))

    @property
    def needs_class_moments(self) -> bool:
        """Whether the kernel wants mean and deviation of the class's exact draws."""
        return False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StepConfig(KernelConfig):
    """step_size: initial distance of one step in z, > 0; adapted during the adaptation steps.
    target_accept_prob: acceptance that adaptation aims at, in (0, 1)."""

    step_size: float
    target_accept_prob: float


@dataclass(frozen=True)
class AdaptedConfig(StepConfig):
    """How the step size of all chains is tuned, the same for every kernel that has this.

    The mean acceptance of the healthy chains decides. While it is tuned, the step size depends on where the chains are, which
    biases the draws the more, the fewer chains there are: one chain tunes by its own acceptance alone. So run several, or with
    one chain give a step size and no adaptation steps.

    adaptation: 'dual_averaging' (Nesterov 2009; Hoffman and Gelman 2014, whose gamma, kappa and t0 the next three are), or
      'simple', which multiplies or divides by 1 + adaptation_rate after each transition (Andrieu and Thoms 2008).
    exploration_shrinkage: > 0; the larger, the less a step size swings with the acceptance of single proposals.
    decay_rate: in (0.5, 1); the larger, the more the early steps count in the average that is kept.
    step_count_smoothing: 1..1000, steps that are counted as done before the first.
    adaptation_rate: in (0, 1).
    """

    _: KW_ONLY
    adaptation: str = "dual_averaging"
    # The mean acceptance of few chains is noisy, and averaging the log of a step size that swings with it ends up too small: of
    # one chain, at TFP's 0.05, acceptance after 150 steps was 0.65 (mala) and 0.80 (hmc) for targets of 0.574 and 0.651 on a
    # normal; at 0.2, 0.59 and 0.74.
    exploration_shrinkage: float = 0.2
    decay_rate: float = 0.75
    step_count_smoothing: int = 10
    adaptation_rate: float = 0.1

    # What each way to adapt has no use for.
    idle: ClassVar[dict[str, tuple[str, ...]]] = {
        "dual_averaging": ("adaptation_rate",),
        "simple": ("exploration_shrinkage", "decay_rate", "step_count_smoothing"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.idle[self.adaptation]:
            value = getattr(self, name)
            if value != getattr(AdaptedConfig, name):
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
class MalaConfig(AdaptedConfig):
    """class_reg: weight >= 0 of the pull towards the class's mean latent point (`Regularization`); above 0 the target is no
    longer the posterior."""

    class_reg: float = 0.0

    @property
    def needs_class_moments(self) -> bool:
        return self.class_reg > 0


@dataclass(frozen=True)
class HmcConfig(AdaptedConfig):
    """num_leapfrog_steps: gradients in one transition, 1..1000."""

    num_leapfrog_steps: int = 1


@dataclass(frozen=True)
class NutsConfig(AdaptedConfig):
    """max_tree_depth: doublings of a trajectory, 1..12; it takes at most 2 ** max_tree_depth gradients."""

    max_tree_depth: int = 4


@dataclass(frozen=True)
class CheesConfig(AdaptedConfig):
    """max_leapfrog_steps: gradients in one transition at most, 1..1000."""

    max_leapfrog_steps: int = 16


@dataclass(frozen=True)
class ReplicaConfig(AdaptedConfig):
    """num_leapfrog_steps: as of hmc, in each replica. num_replicas: temperatures, 2..64. min_inverse_temperature: the
    likelihood's exponent in the last replica, in (0, 1); those between are spaced geometrically."""

    num_leapfrog_steps: int = 1
    num_replicas: int = 4
    min_inverse_temperature: float = 0.1


@dataclass(frozen=True)
class LocalGlobalConfig(AdaptedConfig):
    """num_global_draws: fresh prior draws in each global move, 1..10000. num_local_steps: mala transitions after it,
    1..1000."""

    num_global_draws: int = 16
    num_local_steps: int = 1


@dataclass(frozen=True)
class SmcConfig(StepConfig):
    """num_mutations: mala transitions at each temperature, 1..1000. ess_share: share of the particles that reweighting to the
    next temperature leaves effective, in (0, 1)."""

    num_mutations: int = 4
    ess_share: float = 0.5


@dataclass(frozen=True)
class MapConfig(KernelConfig):
    """Settings of gradient ascent.

    step_size: > 0, of Adam, or the length of a normalized step. optimizer: 'adam' or 'normalized'. objective: what of the
    classifier is raised, 'log_prob' or the class's 'logit'. class_reg: weight >= 0 of the pull towards the class's mean
    latent point. l2_decay: share of z taken off in each step, 0..1. clip_sigma: z is kept within so many standard deviations,
    > 0; 0 is no bound. clip_around: those of the 'prior', or unit by unit of the 'class'.
    """

    step_size: float
    optimizer: str = "adam"
    objective: str = "log_prob"
    class_reg: float = 0.0
    l2_decay: float = 0.0
    clip_sigma: float = 0.0
    clip_around: str = "prior"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_around == "class" and self.clip_sigma == 0:
            raise fail(
                "clip_around", "a bound around the class", "clip_sigma 0, which is no bound", "give --clip_sigma=2, for example"
            )

    @property
    def needs_class_moments(self) -> bool:
        return self.class_reg > 0 or (self.clip_sigma > 0 and self.clip_around == "class")


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
    init: 'resample' (each chain starts at an exact draw, found among its own `num_init_draws` prior draws, or at a likely one
      where the class is too rare; see `starts`), 'prior', or 'given', at `init_z`, the latent point [latent_dim] at which all
      chains start.
    """

    num_chains: int = 16
    temperature: float = 1.0
    seed: int = 0
    jit: bool | str = "auto"
    init: str = "resample"
    init_z: tuple[float, ...] | None = None

    num_init_draws: ClassVar[int] = 256

    def __post_init__(self) -> None:
        check_int("num_chains", self.num_chains, 1, 4096)
        check_real("temperature", self.temperature, 0.0)
        check_int("seed", self.seed, 0, 2**62 - 1)
        check_choice("jit", self.jit, ("auto", True, False))
        check_choice("init", self.init, ("resample", "prior", "given"))
        if (self.init == "given") != (self.init_z is not None):
            raise fail(
                "init", "a latent point for init 'given', and for that alone", self.init, "give --init=PICTURE, or no init_z"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
