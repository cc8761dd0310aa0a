"""BlackJAX's mala in a process of its own, for `baselines`: reads FOLDER, writes `draws.npz` there, and prints its figures.

    python -m tools.bench.blackjax_draws FOLDER

It needs JAX, BlackJAX and Keras, and no TensorFlow.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(folder):
    """Run the chains that `shared.json` in `folder` describes."""
    os.environ["KERAS_BACKEND"] = "jax"
    import blackjax
    import jax

    from tools.bench.bench_worker import read_shared
    from tools.bench.keras_networks import load_networks

    folder = Path(folder)
    shared, arrays = read_shared(folder)
    generator, classifier = load_networks(arrays, shared["latent_dim"], shared["num_classes"])

    def log_prob(z):
        likelihood = jax.nn.log_softmax(classifier.opinion(generator(z[None])))[0, shared["label"]]
        return likelihood / shared["temperature"] + jax.scipy.stats.norm.logpdf(z).sum()

    kernel = blackjax.mala(log_prob, shared["step_size"] ** 2 / 2)  # half the variance of the proposal noise
    init, step = jax.jit(jax.vmap(kernel.init)), jax.jit(jax.vmap(kernel.step))
    state = init(np.load(folder / "start.npy"))
    keys = jax.random.split(jax.random.key(shared["seed"]), (shared["num_steps"], len(state.position)))
    state, _ = jax.block_until_ready(step(keys[0], state))  # compiles
    z, accepted, start = [], [], time.process_time()
    for key in keys:
        state, info = step(key, state)
        z.append(np.asarray(state.position))
        accepted.append(np.asarray(info.is_accepted))
    seconds = time.process_time() - start
    np.savez(folder / "draws.npz", z=np.stack(z), is_accepted=np.stack(accepted))
    versions = f"BlackJAX {blackjax.__version__}, JAX {jax.__version__}"
    print(json.dumps({"cpu_seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1])
