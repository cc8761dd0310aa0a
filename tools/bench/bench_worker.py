"""One framework in a subprocess of tools/bench/bench.py: it reports its tasks, then times those that are requested.

    python -m tools.bench.bench_worker tensorflow|torch|torch_compiled|jax FOLDER

Both sides write one JSON object per line. FOLDER holds the data that the frameworks share, `shared.json` and `shared.npz`.
tensorflow writes them and the others read them, so that they need no TensorFlow.
"""

import contextlib
import functools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("generator", "classifier")
GRADIENT = "gradient"  # the bare value and gradient, a task of every framework
SAMPLERS = ("mala", "hmc")
STEP_SIZES = {"mala": 0.4, "hmc": 0.3}  # distances in z, close to tuned values; nothing is tuned here


def latent_points(num_chains, latent_dim):
    """Return prior draws, the same in every framework."""
    return np.random.default_rng(0).standard_normal((num_chains, latent_dim)).astype("float32")


def network_arrays():
    """Return {model: the variables of the shipped SavedModel, in order}, as `keras_networks.load_networks` takes them."""
    import tensorflow as tf

    from tfgradgen.models.shipped import default_model

    arrays = {}
    for name in MODELS:
        variables = tf.train.load_checkpoint(str(default_model(name) / "variables" / "variables"))
        count = sum(key.startswith("weights/") for key in variables.get_variable_to_shape_map())
        arrays[name] = [variables.get_tensor(f"weights/{k}/.ATTRIBUTES/VARIABLE_VALUE") for k in range(count)]
    return arrays


def write_shared(folder, shared, arrays):
    """Write what `read_shared` returns."""
    named = {f"{name}_{k}": array for name, each in arrays.items() for k, array in enumerate(each)}
    np.savez(folder / "shared.npz", **named)
    (folder / "shared.json").write_text(json.dumps(shared), encoding="utf-8")


def tensorflow_tasks(folder, label):
    """Return the tasks of tfgradgen, {name: (z, number of gradients) -> measurements}, run once before they are timed."""
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    import tfgradgen as tg
    from tfgradgen.core.config import changed_config
    from tfgradgen.models.labels import resolve_labels

    generator, classifier = tg.load_generator(), tg.load_classifier()
    posterior = tg.ClassPosterior(generator, classifier, resolve_labels(classifier.labels, label)[0])
    configs = {name: changed_config(tg.SAMPLERS[name].defaults, {"step_size": STEP_SIZES[name]}) for name in SAMPLERS}
    leapfrogs = {name: getattr(config, "num_leapfrog_steps", 1) for name, config in configs.items()}
    shared = {
        "label": int(posterior.label),
        "latent_dim": posterior.latent_dim,
        "num_classes": classifier.num_classes,
        "step_size": STEP_SIZES,
        "num_leapfrog_steps": leapfrogs,
    }
    write_shared(folder, shared, network_arrays())

    def value_and_gradient(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = posterior.unnormalized_log_prob(z)
        return value, tape.gradient(value, z)

    @tf.function(autograph=False)
    def repeated(z, num_steps):
        def step(i, z, total):
            value, gradient = value_and_gradient(z)
            return i + 1, z + 1e-6 * gradient, total + tf.reduce_sum(value)

        return tf.while_loop(lambda i, *_: i < num_steps, step, (0, z, 0.0), parallel_iterations=1)

    def bare(z, num_gradients):
        repeated(tf.constant(z), tf.constant(num_gradients))[0].numpy()
        return {"gradients": num_gradients}

    def chains(name, z, num_gradients):
        schedule = tg.Schedule(max(1, num_gradients // leapfrogs[name]), 0, 0)
        run = tg.RunConfig(num_chains=len(z))
        draws, cost = tg.sample_chains(posterior, name, configs[name], schedule, run, tf.constant(z))
        return {"gradients": cost.num_gradients / len(z), "accept_rate": float(np.mean(draws.is_accepted))}

    tasks = {GRADIENT: bare} | {name: functools.partial(chains, name) for name in SAMPLERS}
    # Compiled, because after an eager gradient of a SavedModel all later graphs of it are slower and take more memory.
    check = tf.function(value_and_gradient, autograph=False)
    return f"tfgradgen on TensorFlow {tf.__version__}", lambda z: check(tf.constant(z)), tasks


def read_shared(folder):
    """Return (settings, {model: its arrays}), as written by tensorflow."""
    shared = json.loads((folder / "shared.json").read_text(encoding="utf-8"))
    with np.load(folder / "shared.npz") as data:
        count = {name: sum(key.startswith(f"{name}_") for key in data.files) for name in MODELS}
        return shared, {name: [data[f"{name}_{k}"] for k in range(count[name])] for name in MODELS}


def torch_tasks(folder, is_compiled, mode=None):
    """Return the tasks of the networks in PyTorch on its default device, with and without compilation in `mode`."""
    os.environ["KERAS_BACKEND"] = "torch"  # for the networks whose weights are taken
    import torch

    from tools.bench.keras_networks import load_networks
    from tools.bench.torch_networks import make_log_prob

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shared, arrays = read_shared(folder)
    generator, classifier = load_networks(arrays, shared["latent_dim"], shared["num_classes"])
    log_prob = make_log_prob(generator, classifier, shared["label"])
    if is_compiled:
        log_prob = torch.compile(log_prob, dynamic=False, mode=mode)  # one graph per number of chains

    def value_and_gradient(z):
        z = z.detach().requires_grad_()
        value = log_prob(z)
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    def bare(z, num_gradients):
        z = torch.asarray(z)
        for _ in range(num_gradients):
            z = z + 1e-6 * value_and_gradient(z)[1]
        z.cpu()  # waits for a GPU
        return {"gradients": num_gradients}

    def check(z):
        return tuple(part.cpu() for part in value_and_gradient(torch.asarray(z)))

    title = f"PyTorch {torch.__version__}, {'torch.compile' if is_compiled else 'eager'}"
    return title, check, {GRADIENT: bare}


def jax_tasks(folder):
    """Return the tasks of the Keras networks of tools/ on JAX, with BlackJAX's samplers vectorized over chains.

    BlackJAX's hmc runs its leapfrog steps in an XLA loop, in which convolutions on a CPU are several times slower.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    import blackjax
    import jax

    from tools.bench.keras_networks import load_networks

    shared, arrays = read_shared(folder)
    generator, classifier = load_networks(arrays, shared["latent_dim"], shared["num_classes"])

    def log_prob(z):
        likelihood = jax.nn.log_softmax(classifier.opinion(generator(z)))[:, shared["label"]]
        return likelihood + jax.scipy.stats.norm.logpdf(z).sum(1)

    single = lambda z: log_prob(z[None])[0]  # noqa: E731
    value_and_gradient = jax.jit(jax.vmap(jax.value_and_grad(single)))

    def bare(z, num_gradients):
        for _ in range(num_gradients):
            z = z + 1e-6 * value_and_gradient(z)[1]
        jax.block_until_ready(z)
        return {"gradients": num_gradients}

    def make_chains(name):
        step_size, leapfrogs = shared["step_size"][name], shared["num_leapfrog_steps"][name]
        if name == "mala":  # BlackJAX's step size is half the variance of the proposal noise
            kernel = blackjax.mala(single, step_size**2 / 2)
        else:
            kernel = blackjax.hmc(single, step_size, np.ones(shared["latent_dim"], "float32"), leapfrogs)
        init, step = jax.jit(jax.vmap(kernel.init)), jax.jit(jax.vmap(kernel.step))

        def chains(z, num_gradients):
            state, accepted = init(z), []
            keys = jax.random.split(jax.random.key(0), (max(1, num_gradients // leapfrogs), len(z)))
            for key in keys:
                state, info = step(key, state)
                accepted.append(info.is_accepted)
            return {"gradients": 1 + len(keys) * leapfrogs, "accept_rate": float(np.mean(jax.device_get(accepted)))}

        return chains

    tasks = {GRADIENT: bare} | {name: make_chains(name) for name in SAMPLERS}
    return f"JAX {jax.__version__}, BlackJAX {blackjax.__version__}", value_and_gradient, tasks


FRAMEWORKS = {
    "tensorflow": tensorflow_tasks,
    "torch": functools.partial(torch_tasks, is_compiled=False),
    "torch_compiled": functools.partial(torch_tasks, is_compiled=True),
    "jax": jax_tasks,
}


def cpu_seconds():
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def answer(request, value_and_gradient, tasks):
    """Return the reply to one request; a failure of the framework is a reply too."""
    try:
        return carry_out(request, value_and_gradient, tasks)
    except Exception as error:  # each framework has its own errors
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}


def carry_out(request, value_and_gradient, tasks):
    """Carry out a request, whose `do` is check, time or memory."""
    if request["do"] == "memory":
        return {"gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    z = latent_points(request["num_chains"], request["latent_dim"])
    if request["do"] == "check":
        return {name: np.asarray(v).tolist() for name, v in zip(("value", "gradient"), value_and_gradient(z), strict=True)}
    start, cpu = time.monotonic(), cpu_seconds()
    timed = tasks[request["task"]](z, request["num_gradients"])
    return timed | {"seconds": time.monotonic() - start, "cpu_seconds": cpu_seconds() - cpu}


def serve(framework, folder, label="goldfish"):
    """Answer requests from stdin until it ends. All other output to stdout goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(message):
        print(json.dumps(message), file=replies, flush=True)

    make: Any = FRAMEWORKS[framework]
    try:
        title, value_and_gradient, tasks = make(Path(folder), label) if framework == "tensorflow" else make(Path(folder))
    except ImportError as error:
        return reply({"missing": str(error)})
    reply({"title": title, "tasks": list(tasks), "latent_dim": read_shared(Path(folder))[0]["latent_dim"]})
    for line in sys.stdin:
        reply(answer(json.loads(line), value_and_gradient, tasks))


class WorkerError(Exception):
    """A framework is missing, or fails at a request."""


class Worker:
    """The client of a worker process.

    Args:
      command: Arguments of the process.

    Raises:
      WorkerError: The process does not start by reporting its tasks.
    """

    def __init__(self, command):
        self.process: Any = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        hello = self._read()
        self.title, self.tasks, self.latent_dim = hello["title"], hello["tasks"], hello["latent_dim"]

    def ask(self, **request):
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerError("it ended") from None
        return self._read()

    def _read(self):
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"it ended with exit code {self.process.wait()}"}
        for kind in ("missing", "error"):
            if kind in reply:
                self.close()
                raise WorkerError(reply[kind])
        return reply

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


if __name__ == "__main__":
    import fire  # here, because tools/device uses this file on machines without it

    fire.Fire(serve)
