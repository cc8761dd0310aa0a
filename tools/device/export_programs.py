"""Writes the compiled samplers as XLA programs, with their inputs, for tools/device/measure_sampler.py.

    python -m tools.device.export_programs [--out=device_in] [--chains=16,256,4096]

The programs are those that `sample` runs: the bootstrap and the chunk of `tfgradgen.mcmc.chains`, in float32. They need no
TensorFlow to run. The folder holds

- `manifest.json`: for each program its file, the names of its inputs and outputs, and the keys of its weights;
- one `.hlo.gz` per program, a serialized HloModuleProto;
- `weights.npz`: each array that the programs capture, once, if the repository's shipped models do not hold it;
- `inputs.npz`: the other inputs. Programs for fewer chains take the first rows of `z`;
- `reference.npz`: results on this CPU, by XLA and by TensorFlow's own kernels.
"""

import functools
import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import fire
import numpy as np

from tfgradgen.core.quiet import start_tensorflow

start_tensorflow()

import tensorflow as tf  # noqa: E402

import tfgradgen as tg  # noqa: E402
from tfgradgen.core.backend import Stream, fold_in, full_float32  # noqa: E402
from tfgradgen.core.config import changed_config  # noqa: E402
from tfgradgen.mcmc.chains import chunk_size, compiled, condition_of  # noqa: E402
from tfgradgen.mcmc.registry import kernel_sampler  # noqa: E402
from tfgradgen.models.labels import resolve_labels  # noqa: E402
from tools.bench.bench_worker import SAMPLERS, latent_points, network_arrays  # noqa: E402
from tools.device.arrays import key_of, split_weights  # noqa: E402
from tools.device.large_pair import LargeGenerator, PooledClassifier  # noqa: E402

LABEL = "goldfish"
REFERENCE_STEPS = 2  # transitions of the longer reference: chains on two machines drift apart from the first rounding on
MAX_DRAWS = 64  # of each chain that finds starting points
TRACES = ("z", "class_prob", "target_log_prob", "is_accepted", "step_size", "log_accept_ratio")


class Chains(NamedTuple):
    """What one kernel needs to run from `z`.

    Attributes:
      functions: The compiled parts of a run.
      condition: Condition of the posterior.
      tunable_params: The tunable parameters; nothing is adapted.
      seed: Seed of the run.
    """

    functions: Any
    condition: Any
    tunable_params: Any
    seed: tf.Tensor

    @classmethod
    def of(cls, posterior: Any, name: str, config: Any, xla: bool) -> "Chains":
        """Return the chains of kernel `name` with a frozen step size."""
        sampler = kernel_sampler(name)
        functions = compiled(posterior.networks, posterior.temperature, name, sampler.compiled_as(config), 0, xla)
        seed = fold_in(posterior.own_seed(0), Stream.CHAINS)
        return cls(functions, condition_of(posterior), sampler.tunable_params(config, 0), seed)

    def bootstrap_args(self, z: Any) -> dict[str, Any]:
        return {"condition": self.condition, "tunable": self.tunable_params, "z": z}

    def looped_bootstrap(self, z: Any) -> tuple[Any, dict[str, Any], Any]:
        """Return a function that runs the bootstrap `times` times, its arguments, and zeros in the form of its results.

        XLA's bridge in TensorFlow takes `z` of the bare bootstrap as a compile-time constant, and folds the weights. In a loop
        of a number of rounds that is not known beforehand, both stay parameters.
        """
        outputs = self.functions.bootstrap_fn.get_concrete_function(*self.bootstrap_args(z).values()).structured_outputs
        zeros = tf.nest.map_structure(lambda leaf: tf.zeros(leaf.shape, leaf.dtype), outputs)
        bootstrap = self.functions.bootstrap_fn.python_function

        @functools.partial(tf.function, jit_compile=True, autograph=False)
        def looped(condition: Any, tunable_params: Any, times: tf.Tensor, z: tf.Tensor) -> Any:
            def step(i: tf.Tensor, z: tf.Tensor, _: Any) -> Any:
                return i + 1, z, bootstrap(condition, tunable_params, z)

            empty = tf.nest.map_structure(tf.zeros_like, zeros)
            return tf.while_loop(lambda i, *_: i < times, step, (tf.constant(0), z, empty), parallel_iterations=1)[2]

        args = {"condition": self.condition, "tunable": self.tunable_params, "times": tf.constant(1), "z": z}
        return looped, args, zeros

    def chunk_args(self, count: int, z: Any, results: Any) -> dict[str, Any]:
        numbers = {"first": tf.constant(0), "count": tf.constant(count)}
        return {"condition": self.condition, "tunable": self.tunable_params, "seed": self.seed, **numbers, "z": z} | {
            "results": results
        }


class Folder:
    """The files of an export.

    Args:
      path: Where they are written.
    """

    def __init__(self, path: Path):
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: dict[str, np.ndarray] = {}
        self.reference: dict[str, np.ndarray] = {}
        self.manifest: dict[str, Any] = {"programs": {}, "networks": {}, "kernels": {}}

    def add_weight(self, array: np.ndarray) -> str:
        """Store `array` once; return its key."""
        key = key_of(array)
        self.weights[key] = array
        return key

    def add_program(self, name: str, function: Any, args: dict[str, Any], has_weights: bool, **about: Any) -> None:
        """Store the XLA program of `function(*args)`.

        Args:
          name: Name of the program.
          function: A `tf.function` that is compiled with XLA.
          args: Its arguments, by name.
          has_weights: Whether to store what it captures. If not, only the shapes are stored.
          about: Further entries of the manifest.
        """
        concrete = function.get_concrete_function(*args.values())
        variables = {id(v.handle): v for v in concrete.graph.variables}
        captured = [np.asarray(variables.get(id(c), c)) for c in concrete.captured_inputs]
        weights = [self.add_weight(a) if has_weights else [list(a.shape), a.dtype.name] for a in captured]
        program = function.experimental_get_compiler_ir(*args.values())(stage="hlo_serialized")
        # The time is left out of the file, so that the same program gives the same bytes.
        (self.path / f"{name}.hlo.gz").write_bytes(gzip.compress(program, mtime=0))
        self.manifest["programs"][name] = {
            "file": f"{name}.hlo.gz",
            "inputs": list(leaves_of(args)),
            "weights": weights,
            "outputs": [list(map(int, leaf.shape)) for leaf in tf.nest.flatten(concrete.structured_outputs)],
            **about,
        }

    def write(self) -> None:
        weights, self.manifest["places"] = split_weights(self.weights)
        np.savez_compressed(self.path / "weights.npz", **weights)  # type: ignore[arg-type]
        np.savez_compressed(self.path / "inputs.npz", **self.inputs)  # type: ignore[arg-type]
        np.savez_compressed(self.path / "reference.npz", **self.reference)  # type: ignore[arg-type]
        (self.path / "manifest.json").write_text(json.dumps(self.manifest, indent=1, default=float), encoding="utf-8")


def leaves_of(args: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of `args` by name, in the order of the program's parameters."""
    flat = {name: tf.nest.flatten(value) for name, value in args.items()}
    return {f"{name}_{k}" if len(leaves) > 1 else name: v for name, leaves in flat.items() for k, v in enumerate(leaves)}


def export_kernel(folder: Folder, pair: str, posterior: Any, name: str, config: Any, z: np.ndarray, counts: list[int]) -> None:
    """Add the programs of one kernel: the bootstrap for the fewest chains, and a chunk for each of `counts`."""
    chains = Chains.of(posterior, name, config, xla=True)
    has_weights = pair != "large"
    key, transitions = f"{pair}_{name}", chunk_size(name, config)
    inputs: dict[str, Any] = {}
    for count in counts:
        rows = tf.constant(z[:count])
        bootstrap, bootstrap_args, results = chains.looped_bootstrap(rows)
        if count == counts[0]:
            about = dict(kernel=key, chains=count, role="bootstrap")
            folder.add_program(f"{key}_bootstrap", bootstrap, bootstrap_args, has_weights, **about)
            inputs |= leaves_of(bootstrap_args)
        about = dict(kernel=key, chains=count, role="chunk")
        args = chains.chunk_args(transitions, rows, results)
        folder.add_program(f"{key}_{count}", chains.functions.chunk_fn, args, has_weights, **about)
        inputs |= leaves_of(args)
    # The results come from the bootstrap.
    named = {leaf: np.asarray(value) for leaf, value in inputs.items() if leaf.split("_")[0] not in ("z", "results")}
    folder.inputs |= {f"{key}/{leaf}": value for leaf, value in named.items()}
    folder.manifest["kernels"][key] = {
        "transitions": transitions,
        "gradients_per_transition": getattr(config, "num_leapfrog_steps", 1),
        "step_size": config.step_size,
        "num_results": len(tf.nest.flatten(results)),
        "traces": TRACES,
        "z": pair if pair == "large" else "shipped",
    }


def add_reference(folder: Folder, key: str, posterior: Any, name: str, config: Any, z: np.ndarray) -> None:
    """Add results of this CPU: those of the bootstrap, of one transition and of `REFERENCE_STEPS`.

    TensorFlow's own kernels round in another order than XLA. How far the two are apart shows how much rounding matters.
    """
    for way, xla in (("xla", True), ("native", False)):
        chains = Chains.of(posterior, name, config, xla)
        rows = tf.constant(z)
        results = chains.functions.bootstrap_fn(*chains.bootstrap_args(rows).values())
        for k, leaf in enumerate(tf.nest.flatten(results)):
            folder.reference[f"{key}/{way}/bootstrap/{k}"] = leaf.numpy()
        for count in (1, REFERENCE_STEPS):
            _, _, traces, cost = chains.functions.chunk_fn(*chains.chunk_args(count, rows, results).values())
            for trace, rows_of in zip(TRACES, traces, strict=True):
                folder.reference[f"{key}/{way}/{count}/{trace}"] = rows_of.numpy()[:count]
            folder.reference[f"{key}/{way}/{count}/cost"] = cost.numpy()


def tuned(posterior: Any, name: str, num_draws: int, step_size: float) -> tuple[Any, np.ndarray]:
    """Return the config of kernel `name` with its tuned step size, and draws [16 * num_draws, latent_dim] of 16 chains.

    A `step_size` above 0 is taken instead. Then there is no burn-in, as the starts are draws of the posterior.
    """
    sampler = kernel_sampler(name)
    burnin = (0, 0) if step_size else (sampler.schedule.num_burnin_steps, sampler.schedule.num_adaptation_steps)
    config = changed_config(sampler.defaults, {"step_size": step_size}) if step_size else sampler.defaults
    run = tg.RunConfig(num_chains=16)
    init_z, *_ = tg.initial_points(posterior, run)
    draws, _ = tg.sample_chains(posterior, name, config, tg.Schedule(num_draws, *burnin), run, init_z)
    config = changed_config(config, {"step_size": float(np.ravel(draws.step_size[-1])[0])})
    z = np.asarray(draws.z)
    return config, z.reshape(-1, z.shape[-1])


def main(
    out: str = "device_in",
    chains: Any = (16, 256, 4096),
    large_chains: Any = (16, 256),
    large_width: int = 128,
    mala_step_size: float = 0.0,
    hmc_step_size: float = 0.0,
) -> None:
    """Write the programs of mala and hmc into the folder `out`.

    Args:
      out: The folder.
      chains: Numbers of chains for the shipped pair. The first is that of the references.
      large_chains: Numbers of chains for the pair of the size of BigGAN-deep-128; () for none.
      large_width: Its channels, 128 in BigGAN-deep-128.
      mala_step_size: Step size of mala, instead of tuning it.
      hmc_step_size: Likewise.
    """
    full_float32()
    folder = Folder(Path(out))
    generator, classifier = tg.load_generator(), tg.load_classifier()
    posterior = tg.ClassPosterior(generator, classifier, resolve_labels(classifier.labels, LABEL)[0])
    counts = np.atleast_1d(chains).tolist()
    # The draws of a run with few chains are starting points for a run with many. Some start at the same point.
    num_draws = min(MAX_DRAWS, -(-counts[-1] // 16))
    config, z = tuned(posterior, "mala", num_draws, mala_step_size)
    sizes = {"step_size": hmc_step_size}
    hmc = changed_config(kernel_sampler("hmc").defaults, sizes) if hmc_step_size else tuned(posterior, "hmc", 1, 0.0)[0]
    configs = {"mala": config, "hmc": hmc}
    z = np.tile(z, [-(-counts[-1] // len(z)), 1])
    folder.inputs["shipped/z"] = z[np.random.default_rng(0).permutation(len(z))][: counts[-1]]
    for name in SAMPLERS:
        export_kernel(folder, "shipped", posterior, name, configs[name], folder.inputs["shipped/z"], counts)
        add_reference(folder, f"shipped_{name}", posterior, name, configs[name], folder.inputs["shipped/z"][: counts[0]])
        print(f"shipped {name}: step size {configs[name].step_size:.3f}", flush=True)
    for name, arrays in network_arrays().items():
        folder.manifest["networks"][name] = [folder.add_weight(array) for array in arrays]
    folder.manifest["shared"] = {
        "label": int(posterior.label),
        "latent_dim": posterior.latent_dim,
        "num_classes": classifier.num_classes,
        "step_size": {name: configs[name].step_size for name in SAMPLERS},
        "num_leapfrog_steps": {name: getattr(configs[name], "num_leapfrog_steps", 1) for name in SAMPLERS},
    }
    folder.write()  # so that an export that is cut off can be used
    low_generator, low_classifier = tg.load_generator(), tg.load_classifier()
    for model in (low_generator, low_classifier):
        tg.lower_gradients(model.module)
    low_posterior = tg.ClassPosterior(low_generator, low_classifier, posterior.label)
    for name in SAMPLERS:
        export_kernel(folder, "lowered", low_posterior, name, configs[name], folder.inputs["shipped/z"], counts)
    folder.write()
    counts = np.atleast_1d(large_chains).tolist() if large_chains else []
    if counts:
        generator = LargeGenerator(large_width)
        large = tg.ClassPosterior(generator, PooledClassifier(), 0)
        folder.inputs["large/z"] = latent_points(counts[-1], generator.latent_dim)
        for name in SAMPLERS:
            export_kernel(
                folder,
                "large",
                large,
                name,
                changed_config(configs[name], {"step_size": 0.05}),
                folder.inputs["large/z"],
                counts,
            )
    folder.write()
    size = sum(file.stat().st_size for file in folder.path.iterdir() if file.is_file())
    print(f"{folder.path}: {len(folder.manifest['programs'])} programs, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    fire.Fire(main)
