"""The files of a finished run: made up, and read."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.core.contracts import Draws
from tfgradgen.mcmc.recipe import default_recipe


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def some_draws(num_results: int = 8, num_chains: int = 3, latent_dim: int = 4) -> Draws:
    rng = np.random.default_rng(0)
    table = rng.uniform(0.1, 0.9, (6, num_results, num_chains)).astype(np.float32)
    z = rng.normal(size=(num_results, num_chains, latent_dim)).astype(np.float32)
    return Draws(z, table[0], -table[1], table[2] < 0.8, table[3], -table[4])


def a_record() -> dict[str, Any]:
    model = {"path": "models/x", "sha256": "0" * 64, "image_range": [-1.0, 1.0]}
    return {
        **{"label": {"index": 0, "name": "goldfish", "wnid": ""}, "kernel": "mala", "seed": 0},
        "arguments": {
            **{"kernel_config": default_recipe("mala").config.to_dict(), "num_chains": 3, "netcdf": False},
            "schedule": {"num_results": 8, "num_burnin_steps": 2, "num_adaptation_steps": 1},
        },
        **{"generator": model, "classifier": model, "versions": {"python": "3"}, "device": ["cpu"], "machine": "x86_64"},
        **{"jit": False, "backend": "graph", "doubts": ["a warning"], "problems": [], "accept_rate": 0.5},
        **{"num_not_finite": None, "num_scored": None, "exact_starts": None},
        **{"num_gradients": 100, "num_forward": 5, "seconds": 1.5, "mean_class_prob": None, "step_size": [0.1, None]},
        **{"num_not_finite": 0, "num_scored": 768},
    }


def record_of(folder: str) -> dict[str, Any]:
    """Return run.json, which must not contain NaN or infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {folder}/run.json")

    return json.loads((Path(folder) / "run.json").read_text(), parse_constant=refuse)  # type: ignore[no-any-return]
