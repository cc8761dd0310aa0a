"""One framework in a process of its own, for tools/bench/bench.py: says what it can time, then times what it is asked for.

    python -m tools.bench.bench_worker tensorflow|torch|torch_compiled|jax FOLDER

Both sides write one JSON object a line. FOLDER holds what the frameworks share: `shared.json` and `shared.npz`, which
tensorflow writes and the others read, so that they need neither TensorFlow nor tfgradgen.
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

import fire
import numpy as np

MODELS = ("generator", "classifier")
GRADIENT = "gradient"  # the task that every framework has: the bare value and gradient
SAMPLERS = ("mala", "hmc")
STEP_SIZES = {"mala": 0.4, "hmc": 0.3}  # distances in z, about what tuning comes to; nothing is tuned here


def latent_points(num_chains, latent_dim):
    """The same prior draws in every framework."""
    return np.random.default_rng(0).standard_normal((num_chains, latent_dim)).astype("float32")


def tensorflow_tasks(folder, label):
    """tfgradgen itself. Tasks are {name: (z, number of gradients) -> facts}, run once before they are timed."""
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    import tfgradgen as tg
    from tfgradgen.core.config import changed_config
    from tfgradgen.models.labels import resolve_labels
    from tfgradgen.models.shipped import default_model

    generator, classifier = tg.load_generator(), tg.load_classifier()
    posterior = tg.ClassPosterior(generator, classifier, resolve_labels(classifier.labels, label)[0])
    configs = {name: changed_config(tg.SAMPLERS[name].defaults, {"step_size": STEP_SIZES[name]}) for name in SAMPLERS}
    leapfrogs = {name: getattr(config, "num_leapfrog_steps", 1) for name, config in configs.items()}
    arrays: dict[str, np.ndarray] = {}
    for name in MODELS:
        variables = tf.train.load_checkpoint(str(default_model(name) / "variables" / "variables"))
        count = sum(key.startswith("weights/") for key in variables.get_variable_to_shape_map())
        arrays |= {f"{name}_{k}": variables.get_tensor(f"weights/{k}/.ATTRIBUTES/VARIABLE_VALUE") for k in range(count)}
    np.savez(folder / "shared.npz", **arrays)  # type: ignore[arg-type]
    shared = {
        "label": int(posterior.label),
        "latent_dim": posterior.latent_dim,
        "num_classes": classifier.num_classes,
        "step_size": STEP_SIZES,
        "num_leapfrog_steps": leapfrogs,
    }
    (folder / "shared.json").write_text(json.dumps(shared), encoding="utf-8")

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
    # Compiled: after an eager gradient of a SavedModel, every later graph of it is slower and takes more memory.
    check = tf.function(value_and_gradient, autograph=False)
    return f"tfgradgen on TensorFlow {tf.__version__}", lambda z: check(tf.constant(z)), tasks


def read_shared(folder):
    """(settings, {model: its arrays}), as tensorflow wrote them."""
    shared = json.loads((folder / "shared.json").read_text(encoding="utf-8"))
    with np.load(folder / "shared.npz") as data:
        count = {name: sum(key.startswith(f"{name}_") for key in data.files) for name in MODELS}
        return shared, {name: [data[f"{name}_{k}"] for k in range(count[name])] for name in MODELS}


def torch_tasks(folder, is_compiled):
    os.environ["KERAS_BACKEND"] = "torch"  # of the modules that hold the networks' sizes
    import torch

    from tools.bench.torch_networks import make_log_prob

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    shared, arrays = read_shared(folder)
    log_prob = make_log_prob(arrays["generator"], arrays["classifier"], shared["num_classes"], shared["label"])
    if is_compiled:
        log_prob = torch.compile(log_prob, dynamic=False)  # one for each number of chains

    def value_and_gradient(z):
        z = z.detach().requires_grad_()
        value = log_prob(z)
        return value.detach(), torch.autograd.grad(value.sum(), z)[0]

    def bare(z, num_gradients):
        z = torch.from_numpy(z)
        for _ in range(num_gradients):
            z = z + 1e-6 * value_and_gradient(z)[1]
        return {"gradients": num_gradients}

    title = f"PyTorch {torch.__version__}, {'torch.compile' if is_compiled else 'eager'}"
    return title, lambda z: value_and_gradient(torch.from_numpy(z)), {GRADIENT: bare}


def jax_tasks(folder):
    """The Keras networks of tools/ on the JAX backend; the samplers are BlackJAX's, vectorized over chains.

    BlackJAX's hmc runs its leapfrog steps in a loop of XLA's, in which convolutions on CPU take several times as long.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    import blackjax
    import jax

    from tools.train.classifier_networks import ResidualClassifier
    from tools.train.generator_network import LATENT_CONTENT_DIM, SHIPPED_SHARPNESS, Generator

    shared, arrays = read_shared(folder)
    generator = Generator(shared["latent_dim"] - LATENT_CONTENT_DIM, sharpness=SHIPPED_SHARPNESS)
    num_named = shared["num_classes"] - 1
    classifier = ResidualClassifier(num_named, num_others=len(arrays["classifier"][-1]) - num_named)
    classifier(generator(np.zeros([1, shared["latent_dim"]], "float32")))  # builds them
    for network, values in ((generator, arrays["generator"]), (classifier, arrays["classifier"])):
        for variable, value in zip(network.variables, values, strict=True):
            variable.assign(value)

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
        if name == "mala":  # BlackJAX's step is half the variance of the proposal's noise
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
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def answer(request, value_and_gradient, tasks):
    """The reply to one request; a framework's failure is one too."""
    try:
        return carry_out(request, value_and_gradient, tasks)
    except Exception as error:  # each framework has kinds of its own
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}


def carry_out(request, value_and_gradient, tasks):
    """`do` is check, time or memory."""
    if request["do"] == "memory":
        return {"gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    z = latent_points(request["num_chains"], request["latent_dim"])
    if request["do"] == "check":
        return {name: np.asarray(v).tolist() for name, v in zip(("value", "gradient"), value_and_gradient(z), strict=True)}
    start, cpu = time.monotonic(), cpu_seconds()
    facts = tasks[request["task"]](z, request["num_gradients"])
    return facts | {"seconds": time.monotonic() - start, "cpu_seconds": cpu_seconds() - cpu}


def serve(framework, folder, label="goldfish"):
    """Answers requests from stdin until it ends. Whatever else would print to stdout goes to stderr."""
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
    """A framework that is not there, or that fails at what it is asked."""


class Worker:
    """The other side: starts the process and speaks to it.

    command: argv. Raises WorkerError where it does not begin by saying what it can do.
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
        for fault in ("missing", "error"):
            if fault in reply:
                self.close()
                raise WorkerError(reply[fault])
        return reply

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


if __name__ == "__main__":
    fire.Fire(serve)
