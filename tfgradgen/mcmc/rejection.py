"""Exact draws by rejection sampling: the likelihood is a probability, with which z ~ Normal(0, I) is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.arrays import check_state, check_within
from tfgradgen.core.backend import seed_of
from tfgradgen.core.checks import UserError, check_int, fail
from tfgradgen.core.config import KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import Chunk, Cost, Draws, Progress, ProgressFn, collect
from tfgradgen.mcmc.pool import CHUNK, Pool, PriorDraws, pool_of, weigh
from tfgradgen.mcmc.sampler import Resume, Sampler, checked_stats, with_start

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

MAX_FRUITLESS_DRAWS = 200_000  # p(class) under the prior is then most likely below 2e-5
NUM_MOMENT_DRAWS = 128  # the standard error of a mean is then 0.09 standard deviations
MOMENT_SEED = 1  # seed of their pool, together with the seed of the run


class Counts(NamedTuple):
    """The counts of rejection sampling.

    Attributes:
      num_drawn: Prior draws.
      num_accepted: Accepted draws.
      sum_prob: Sum of p(class) over the prior draws.
      sum_accepted_prob: Sum of p(class) over the accepted draws.
      sum_square: Sum of the square of p(class) over the prior draws.
      num_not_finite: Prior draws without a finite p(class), which are in no sum and never accepted.
    """

    num_drawn: int = 0
    num_accepted: int = 0
    sum_prob: float = 0.0
    sum_accepted_prob: float = 0.0
    sum_square: float = 0.0
    num_not_finite: int = 0

    @property
    def prior_class_prob(self) -> float | None:
        """The mean of p(class | g(z)) under the prior where it is finite; None if it is finite nowhere."""
        num = self.num_drawn - self.num_not_finite
        return self.sum_prob / num if num else None

    @property
    def prior_class_prob_error(self) -> float | None:
        """The standard error of `prior_class_prob`; None for fewer than two draws."""
        num = self.num_drawn - self.num_not_finite
        if num < 2:
            return None
        return float(np.sqrt(max(self.sum_square - self.sum_prob**2 / num, 0.0) / (num - 1) / num))

    @property
    def accept_rate(self) -> float:
        return self.num_accepted / self.num_drawn


def counts_of(state: dict[str, np.ndarray]) -> Counts:
    """Return the counts in the state of a `Chunk`."""
    return Counts(*(state[name].item() for name in Counts._fields))


def _check_state(state: dict[str, np.ndarray], latent_dim: int, num_results: int) -> None:
    """Raise `StateError` unless `state` can be that of a `Chunk` of `exact_chunks`."""
    count, total = (np.int64, ()), (np.float64, ())
    counts = {name: total if name.startswith("sum_") else count for name in (*Counts._fields, "num_rows")}
    columns = {"class_prob": (np.float32, ("left",)), "target_log_prob": (np.float32, ("left",))}
    check_state(state, {**counts, "z": (np.float32, ("left", latent_dim)), **columns})
    for name in counts:
        check_within(state, name, 1 if name == "num_drawn" else 0, num_results if name == "num_rows" else np.inf)


def exact_chunks(
    posterior: ClassPosterior, num_results: int, run: RunConfig, state: dict[str, np.ndarray] | None = None
) -> Iterator[Chunk]:
    """Draw num_results x run.num_chains independent exact samples from `posterior` by rejection (von Neumann 1951).

    These are the accepted rows of the pool of the run's seed, in their order, one chunk of the pool at a time. Each takes
    about 1 / p(class) prior draws, where p(class) is its mean under the prior. Every prior draw costs one forward pass,
    whether it was evaluated now or was already in the pool. At temperature 1, the draws of two classes of a classifier are
    disjoint and independent; other targets that share a seed may share draws. A prior draw without a finite p(class) is
    counted, and rejected as if its likelihood were 0.

    With a vector of labels, each label is drawn for its own chains, in turn, as in a run of that label alone, and all draws
    come with the last chunk.

    Args:
      posterior: The target, without a discriminator.
      num_results: Draws per chain.
      run: Provides the seed, `num_chains` and `jit`.
      state: The state of an earlier chunk of the same run, to continue after it.

    Yields:
      A `Chunk` after each chunk of the pool. Its draws are whole rows of num_chains, all accepted, without a step size. Draws
        that are left over are kept in the state, whose counts `counts_of` returns.

    Raises:
      UserError: Nothing was accepted in `MAX_FRUITLESS_DRAWS` draws, or the models would invalidate the run
        (`model_checks.admit`).
    """
    from tfgradgen.diagnostics.model_checks import admit, with_number

    posterior.check_without_energy("rejection")
    posterior.check_without_regularization()
    check_int("num_results", num_results, 1)
    if posterior.is_batched:
        yield from _of_each_label(posterior, num_results, run, state)
        return
    stats: dict[str, Any] = {}
    if state is None:
        posterior, stats["doubts"], *_ = admit(posterior, run, takes_gradients=False)
    else:  # checked at the start of the run
        posterior = with_number(posterior)
    pool = pool_of(posterior, run)
    counts, num_rows, wanted = Counts(), 0, num_results * run.num_chains
    left: tuple[np.ndarray, ...] = tuple(np.zeros([0, *row], np.float32) for row in ([posterior.latent_dim], [], []))
    if state is not None:
        _check_state(state, posterior.latent_dim, num_results)
        left = state["z"], state["class_prob"], state["target_log_prob"]
        counts, num_rows = counts_of(state), int(state["num_rows"])
    while num_rows < num_results:
        columns, before = left, Pool.num_evaluated
        if len(left[0]) < run.num_chains:  # a run that is extended may have left whole rows over
            draws = pool.draws(counts.num_drawn, CHUNK)
            mask, prob, accepted = _accepted(posterior, draws, run)
            columns = tuple(np.concatenate([old, new]) for old, new in zip(left, accepted, strict=True))
            finite = prob[np.isfinite(prob)]
            counts = Counts(
                counts.num_drawn + CHUNK,
                counts.num_accepted + int(mask.sum()),
                counts.sum_prob + float(finite.sum()),
                counts.sum_accepted_prob + float(prob[mask].sum()),
                counts.sum_square + float(np.square(finite).sum()),
                counts.num_not_finite + len(prob) - len(finite),
            )
        if not counts.num_accepted and counts.num_drawn >= MAX_FRUITLESS_DRAWS:
            if counts.num_not_finite == counts.num_drawn:
                raise fail("p(class)", "a finite likelihood at some prior draw", "none", "check the models' ranges and weights")
            raise fail(
                "rejection",
                "a class that the generator can draw",
                f"none accepted in {counts.num_drawn} prior draws",
                "use --kernel=hmc or a higher --temperature",
            )
        shape = (min(len(columns[0]) // run.num_chains, num_results - num_rows), run.num_chains)
        num_rows, whole = num_rows + shape[0], shape[0] * run.num_chains
        rows = [column[:whole].reshape(*shape, *column.shape[1:]) for column in columns]
        left = tuple(column[whole:] for column in columns)
        mean = counts.sum_accepted_prob / counts.num_accepted if counts.num_accepted else float("nan")
        yield Chunk(
            Progress(
                min(counts.num_accepted, wanted),
                wanted,
                counts.accept_rate,
                float("nan"),
                mean,
                is_stored=Pool.num_evaluated == before,
            ),
            Draws(
                rows[0], rows[1], rows[2], np.ones(shape, bool), np.full(shape, np.nan, np.float32), np.zeros(shape, np.float32)
            ),
            {name: np.asarray(value) for name, value in (counts._asdict() | {"num_rows": num_rows}).items()}
            | dict(zip(("z", "class_prob", "target_log_prob"), left, strict=True)),
            Cost(0, counts.num_drawn),
            stats | stats_of(counts),
        )


def _accepted(
    posterior: ClassPosterior, draws: PriorDraws, run: RunConfig
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Return which rows of the pool are accepted, and their values.

    Returns:
      [CHUNK] bool, the accepted rows; p(class) of all rows, [CHUNK] float64; and z, p(class) and the target's log density of
        the accepted rows, float32.
    """
    weighed = weigh(posterior, draws, run)
    mask, prob = weighed.is_accepted, np.exp(weighed.class_log_prob)
    z = draws.z[mask]
    target = posterior.prior_log_prob(z).numpy() + weighed.log_weight[mask].astype(np.float32)
    return mask, prob, (z, prob[mask].astype(np.float32), target)


def stats_of(counts: Counts) -> dict[str, Any]:
    """Return the statistics of a run that follow from `counts`, JSON-serializable."""
    return {
        "prior_class_prob": counts.prior_class_prob,
        "prior_class_prob_error": counts.prior_class_prob_error,
        "prior_draws": counts.num_drawn,
        "num_not_finite": counts.num_not_finite,
        "num_scored": counts.num_drawn,
        "accept_rate": counts.accept_rate,
    }


def _of_each_label(
    posterior: ClassPosterior, num_results: int, run: RunConfig, state: dict[str, np.ndarray] | None
) -> Iterator[Chunk]:
    """Run `exact_chunks` for a vector of labels. The state holds the draws so far, the current label and its own state."""
    from tfgradgen.diagnostics.model_checks import admit

    posterior.check_num_chains(run.num_chains)
    parts, shape = posterior.each_label(), (num_results, run.num_chains)
    z, columns = np.zeros([*shape, posterior.latent_dim], np.float32), np.zeros([2, *shape], np.float32)
    stats: dict[str, Any] = {}
    done, num_rows, before, within = 0, 0, Counts(), None
    if state is None:
        posterior, stats["doubts"], *_ = admit(posterior, run, takes_gradients=False)
    else:
        z, columns, done, num_rows = state["whole_z"].copy(), state["columns"].copy(), int(state["done"]), int(state["rows"])
        before = Counts._make(state[f"before_{name}"].item() for name in Counts._fields)
        within = {name.removeprefix("label_"): value for name, value in state.items() if name.startswith("label_")} or None
    for number, (of_label, places) in enumerate(parts[done:], done):
        for chunk in exact_chunks(of_label, num_results, replace(run, num_chains=len(places)), within):
            new = len(chunk.draws.z)
            z[num_rows : num_rows + new, places] = chunk.draws.z
            columns[:, num_rows : num_rows + new, places] = chunk.draws.class_prob, chunk.draws.target_log_prob
            num_rows += new
            is_whole, own = num_rows == num_results, counts_of(chunk.state)
            counts = Counts._make(a + b for a, b in zip(before, own, strict=True))
            is_last = is_whole and number == len(parts) - 1
            begun = {} if is_whole else {f"label_{name}": value for name, value in chunk.state.items()}
            kept = num_results if is_last else 0
            no_step = np.full((kept, run.num_chains), np.nan, np.float32)
            flags, zeros = np.ones(no_step.shape, bool), np.zeros(no_step.shape, np.float32)
            if is_whole:
                before, num_rows = counts, 0
            yield Chunk(
                chunk.progress._replace(
                    num_done=number * num_results * run.num_chains // len(parts) + chunk.progress.num_done,
                    num_total=num_results * run.num_chains,
                ),
                Draws(z[:kept], columns[0, :kept], columns[1, :kept], flags, no_step, zeros),
                {
                    "whole_z": z.copy(),
                    "columns": columns.copy(),
                    "done": np.asarray(number + is_whole),
                    "rows": np.asarray(num_rows),
                }
                | {f"before_{name}": np.asarray(value) for name, value in before._asdict().items()}
                | begun,
                Cost(0, counts.num_drawn),
                stats | stats_of(counts),
            )
        within = None


def sample_exact(
    posterior: ClassPosterior, num_results: int, run: RunConfig, progress_fn: ProgressFn | None = None
) -> tuple[Draws, Cost, float, float]:
    """Return all draws of `exact_chunks`, which documents the arguments. Issue its warnings.

    Returns:
      The draws, their cost, the mean p(class | g(z)) under the prior, and the accepted share of the prior draws.
    """
    from tfgradgen.diagnostics.model_checks import warn_of

    draws, cost, stats = collect(exact_chunks(posterior, num_results, run), progress_fn)
    warn_of(stats["doubts"])
    return draws, cost, stats["prior_class_prob"], stats["accept_rate"]


def class_moments(posterior: ClassPosterior, run: RunConfig) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the mean and standard deviation of z over `NUM_MOMENT_DRAWS` exact draws of the class at temperature 1.

    The draws are from a pool of their own, so that no chain that is pulled towards their mean starts at one of them.

    Returns:
      The mean and the standard deviation, [latent_dim] float32 each, or [num_chains, latent_dim] for a vector of labels, one
        row per chain; and the number of prior draws used.

    Raises:
      UserError: The class is too rare.
    """
    from tfgradgen.diagnostics.model_checks import admit
    from tfgradgen.posterior import ClassPosterior

    run = replace(run, temperature=1.0)
    if posterior.is_batched:
        return of_chains(posterior, [class_moments(each, run) for each, _ in posterior.each_label()])
    networks = posterior.networks._replace(discriminator=None, discriminator_weight=0.0)
    plain = ClassPosterior.of(networks, posterior.label)
    admit(plain, run, takes_gradients=False)  # check first, so that invalid models are not reported as a rare class
    try:
        apart = replace(run, num_chains=1, seed=seed_of(run.seed, MOMENT_SEED))
        draws, cost, _ = collect(exact_chunks(plain, NUM_MOMENT_DRAWS, apart))
    except UserError as error:
        raise fail(
            "class_reg",
            "a class whose mean can be estimated from exact draws",
            f"none accepted in {MAX_FRUITLESS_DRAWS} prior draws",
            "leave --class_reg and --clip_around out",
        ) from error
    return draws.z[:, 0].mean(0), draws.z[:, 0].std(0, ddof=1), cost.num_forward


def of_chains(
    posterior: ClassPosterior, moments: Sequence[tuple[np.ndarray, np.ndarray, int]]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return `class_moments` of a vector of labels from those of each label, in the order of `ClassPosterior.each_label`."""
    mean, scale = np.zeros([2, posterior.batch_shape[0], posterior.latent_dim], np.float32)
    for (_, places), (own_mean, own_scale, _) in zip(posterior.each_label(), moments, strict=True):
        mean[places], scale[places] = own_mean, own_scale
    return mean, scale, sum(num_drawn for _, _, num_drawn in moments)


def _run(
    sampler: Sampler, posterior: ClassPosterior, config: Any, schedule: Schedule, run: RunConfig, resume: Resume | None
) -> Iterator[Chunk]:
    stats = checked_stats(posterior, run, sampler.takes_gradients, resume)
    for chunk in exact_chunks(posterior, schedule.num_results, run, resume and resume.state):
        yield with_start(chunk, stats)


SAMPLER = Sampler(
    "rejection",
    about="best unless a class is rare",
    exactness="exact",
    defaults=KernelConfig(),
    schedule=Schedule(num_results=2, num_burnin_steps=0, num_adaptation_steps=0),
    kind="exact",
    cost_fn=lambda config: Cost(0, 1),
    start_cost=lambda config: Cost(0, 0),
    run_fn=_run,
)
