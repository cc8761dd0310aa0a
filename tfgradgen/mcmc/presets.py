"""What is known of each method before anything is computed: default settings, schedule, cost. Imports no TensorFlow, so that
wrong flags, schedules and finished runs are checked within a fraction of a second."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfgradgen.core.config import (
    CheesConfig,
    HmcConfig,
    KernelConfig,
    LocalGlobalConfig,
    MalaConfig,
    MapConfig,
    NutsConfig,
    ReplicaConfig,
    Schedule,
    SmcConfig,
)
from tfgradgen.core.contracts import Cost

# What a method finds out about the models before its first step, by the names in run.json.
PRIOR_FACTS = (
    "prior_class_prob",
    "prior_class_prob_error",
    "prior_draws",
    "num_not_finite",
    "num_scored",
    "exact_starts",
)
CHEES_START_STEPS = 3  # leapfrog steps of the first trajectory of chees


@dataclass(frozen=True)
class Preset:
    """One method, without its code.

    defaults, schedule: what the command line uses; the fields of `defaults` are the method's flags.
    cost_fn: config -> gradients and forward passes a chain of one transition, about; it decides how many make a chunk.
    start_cost: of the first results, a chain.
    kind: what the draws are: 'chain', 'exact' (independent, of the posterior), 'particles' (of populations) or 'ascent' (none).
    is_calibrated: config -> whether the method leaves the posterior invariant.
    min_chains: fewer cannot be tuned.
    counts_adaptation: whether each number of adaptation steps is a graph of its own.
    """

    name: str
    defaults: KernelConfig
    schedule: Schedule
    cost_fn: Callable[[Any], Cost] = lambda config: Cost(1, 0)
    start_cost: Callable[[Any], Cost] = lambda config: Cost(1, 0)
    kind: str = "chain"
    is_calibrated: Callable[[Any], bool] = lambda config: True
    min_chains: int = 1
    counts_adaptation: bool = False

    @property
    def takes_gradients(self) -> bool:
        return self.cost_fn(self.defaults).num_gradients > 0

    @property
    def can_go_on(self) -> bool:
        """Whether a finished run can be made longer: particles move together, so that more of them are another run."""
        return self.kind != "particles"

    @property
    def takes_starts(self) -> bool:
        """Whether its chains start at points that the user can choose."""
        return self.kind in ("chain", "ascent")


def leapfrog_cost(config: HmcConfig) -> Cost:
    return Cost(config.num_leapfrog_steps, 0)


_ALL = (
    # Found by `tune` on the shipped models: tools/tuning/mala.
    Preset(
        "mala",
        MalaConfig(
            step_size=0.4, target_accept_prob=0.442, exploration_shrinkage=0.208, decay_rate=0.715, step_count_smoothing=12
        ),
        Schedule(num_results=264, num_burnin_steps=36, num_adaptation_steps=27),
        is_calibrated=lambda config: config.class_reg == 0,
    ),
    # Chosen on the shipped models, and `tune` shows none better: tools/tuning/hmc. The acceptance lies below 0.651, the optimum
    # as the dimension grows (Beskos et al. 2013), and the first step is long: as many effective draws, and from prior starts
    # more chains find their class.
    Preset(
        "hmc",
        HmcConfig(step_size=0.3, target_accept_prob=0.6, num_leapfrog_steps=3),
        Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
        leapfrog_cost,
    ),
    # Found by `tune` on the shipped models: tools/tuning/split_hmc.
    Preset(
        "split_hmc",
        HmcConfig(
            step_size=0.274,
            target_accept_prob=0.542,
            exploration_shrinkage=0.164,
            decay_rate=0.643,
            step_count_smoothing=24,
            num_leapfrog_steps=4,
        ),
        Schedule(num_results=47, num_burnin_steps=28, num_adaptation_steps=21),
        leapfrog_cost,
    ),
    # `tune` shows none better on the shipped models: tools/tuning/nuts.
    Preset(
        "nuts",
        NutsConfig(step_size=0.2, target_accept_prob=0.7, max_tree_depth=4),
        Schedule(num_results=25, num_burnin_steps=50, num_adaptation_steps=40),
        lambda config: Cost(2 ** (config.max_tree_depth - 1), 0),
    ),
    # `tune` shows none better on the shipped models: tools/tuning/chees.
    Preset(
        "chees",
        CheesConfig(step_size=0.3, target_accept_prob=0.65, max_leapfrog_steps=16),
        Schedule(num_results=50, num_burnin_steps=50, num_adaptation_steps=37),
        lambda config: Cost(CHEES_START_STEPS, 0),
        min_chains=2,  # the criterion looks at their spread
        counts_adaptation=True,
    ),
    # `tune` shows none better on the shipped models: tools/tuning/local_global.
    Preset(
        "local_global",
        LocalGlobalConfig(step_size=0.4, target_accept_prob=0.4, num_global_draws=16, num_local_steps=1),
        Schedule(num_results=40, num_burnin_steps=60, num_adaptation_steps=52),
        lambda config: Cost(1 + config.num_local_steps, config.num_global_draws),
    ),
    # `tune` shows none better on the shipped models: tools/tuning/replica_exchange.
    Preset(
        "replica_exchange",
        ReplicaConfig(step_size=0.2, target_accept_prob=0.6, num_leapfrog_steps=3, num_replicas=4, min_inverse_temperature=0.1),
        Schedule(num_results=25, num_burnin_steps=40, num_adaptation_steps=34),
        lambda config: Cost(config.num_replicas * (config.num_leapfrog_steps + 1), config.num_replicas),
        lambda config: Cost(config.num_replicas, 0),
    ),
    Preset(
        "elliptical_slice",
        KernelConfig(),
        Schedule(num_results=100, num_burnin_steps=50, num_adaptation_steps=0),
        lambda config: Cost(0, 6),
        lambda config: Cost(0, 1),
    ),
    Preset(
        "map",
        MapConfig(step_size=0.05),
        Schedule(num_results=100, num_burnin_steps=200, num_adaptation_steps=0),
        kind="ascent",
        is_calibrated=lambda config: False,
    ),
    Preset("rejection", KernelConfig(), Schedule(40, 0, 0), lambda config: Cost(0, 1), lambda config: Cost(0, 0), "exact"),
    # Finite populations are biased, by the order of 1 / num_results.
    Preset(
        "smc",
        SmcConfig(0.4, 0.4),
        Schedule(32, 0, 0),
        lambda config: Cost(config.num_mutations + 1, 1),
        lambda config: Cost(0, 1),
        "particles",
        lambda config: False,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}

# Kernels that an export can serve (see `serving.rules`) -> their leapfrog steps in one transition.
SERVED: dict[str, Callable[[Any], int]] = {"mala": lambda config: 1, "hmc": lambda config: config.num_leapfrog_steps}
