"""Diagonal preconditioning: the scale of each coordinate, measured in windows of the adaptation, then frozen.

The adaptation is cut into num_windows + 1 parts of equal length. Each tunes the step size anew from where the last part left
it, and each but the last is a window: at its end the deviation of each coordinate, over all chains and the transitions of the
window, becomes the scale of its steps (`Scaled`). Kept draws are made with one scale, as with one step size. After Stan's
windows (Stan reference manual, "Automatic parameter tuning"), but pooled over chains, for windows are short here: so the chains
of a run share the scale, and a chain is not the same in a run of 4 and of 16.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability.python.internal import unnest

from tfgradgen.config import KernelConfig, Schedule, window_ends
from tfgradgen.contracts import Draws
from tfgradgen.kernels.base import KernelFamily

PSEUDO_DRAWS = 5.0  # of even deviations, which a measured deviation is shrunk towards; as many as Stan's


def step_scale(count: float, total: np.ndarray, square: np.ndarray) -> np.ndarray | None:
    """Deviations [latent_dim] float32 divided by their geometric mean; None where nothing was seen to move.

    Args:
      count: draws. total, square: [latent_dim], sums of them and of their squares.
    """
    if count < 2:
        return None
    variance = np.maximum(square / count - (total / count) ** 2, 0.0)
    even = variance.mean()
    if even == 0.0:
        return None
    log_scale = 0.5 * np.log((count * variance + PSEUDO_DRAWS * even) / (count + PSEUDO_DRAWS))
    return np.exp(log_scale - log_scale.mean()).astype(np.float32)


class Windows:
    """Where the adaptation of a run is.

    Args:
      family, config, schedule: of the run. shape: (num_chains, latent_dim).
      num_done: transitions so far. state: holds `state()` of then, None at the start.

    Attributes:
      ends: `window_ends`. dials: those of the part under way; None where nothing is tuned.
    """

    def __init__(
        self, family: KernelFamily, config: KernelConfig, schedule: Schedule, shape: tuple[int, int], num_done: int, state: Any
    ):
        self.ends = window_ends(config, schedule)
        self._parts = np.diff([0, *self.ends, schedule.num_adaptation_steps]).tolist()
        self.dials = family.dials(config, *shape, self._parts[0])
        self._sums = np.zeros([3, shape[1]])
        if self.ends and state is not None:
            self._sums = state["window_sums"]
            self._turn(state["step_scale"], num_done, state["first_step_size"])

    def _turn(self, scale: Any, num_done: int, step_size: Any) -> None:
        """Sets the dials for the part that begins or goes on after `num_done` transitions."""
        part = sum(end <= num_done for end in self.ends)
        assert self.dials is not None
        self.dials = self.dials._replace(
            step_size=tf.constant(step_size),
            num_adaptation_steps=tf.constant(self._parts[part]),
            step_scale=tf.constant(scale),
            shrinkage_target=tf.constant(step_size) if part else self.dials.shrinkage_target,
        )

    def state(self) -> dict[str, np.ndarray]:
        """What it takes to go on: {} where there are no windows."""
        if not self.ends or self.dials is None or self.dials.step_scale is None:
            return {}
        scale, step_size = self.dials.step_scale.numpy(), self.dials.step_size.numpy()
        return {"window_sums": self._sums, "step_scale": scale, "first_step_size": step_size}

    def add(self, rows: Draws, num_done: int, results: Any) -> bool:
        """Looks at the transitions up to `num_done`; returns whether a part begins there, for which the kernel starts anew.

        rows: what was drawn since the last call, all within one part. results: of the kernel, for the step size it has come to.
        """
        if not self.ends or self.dials is None or num_done > self.ends[-1]:
            return False
        is_fit = np.isfinite(rows.target_log_prob) & np.isfinite(rows.z).all(-1)
        z = rows.z[is_fit].astype(np.float64)
        self._sums = self._sums + np.stack([np.full(z.shape[1], len(z)), z.sum(0), np.square(z).sum(0)])
        if num_done not in self.ends:
            return False
        count, total, square = self._sums
        scale = step_scale(count[0], total, square)
        self._sums = np.zeros_like(self._sums)
        tuned = unnest.get_outermost(results, "new_step_size").numpy()
        self._turn(self.dials.step_scale if scale is None else scale, num_done, tuned)
        return True
