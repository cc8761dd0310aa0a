"""Runs XLA programs that tools/device/export_programs.py wrote, by JAX's client. It needs JAX and NumPy only."""

import gzip
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src.lib import _jax, xla_client
from jaxlib.mlir.dialects import stablehlo

from tools.device.arrays import read_weights

# A matrix product or convolution in the text of a program, one per line.
PRODUCT = re.compile(
    r"(?P<indent>\s*)(?P<name>%[\w#]+) = stablehlo\.(?P<kind>convolution|dot_general|dot)(?P<open>[( ])"
    r"(?P<left>%[\w#]+), (?P<right>%[\w#]+)(?P<middle>.*) : "
    r"\(tensor<(?P<left_shape>[\dx]+)xf32>, tensor<(?P<right_shape>[\dx]+)xf32>\) -> tensor<(?P<shape>[\dx]+)xf32>(?P<rest>.*)"
)
COPY = re.compile(r"mhlo\.copy (%[\w#]+) : (tensor<[^>]*>)")
PARAMETER = re.compile(r"%arg\d+: tensor<([^>]*)>")
TYPES = {"float32": "f32", "float16": "f16", "int32": "i32", "int64": "i64", "bool": "i1", "uint32": "ui32", "float64": "f64"}
PRECISIONS = ("float32", "tf32", "bfloat16")
CONVERSION = threading.Lock()  # conversions in several threads at once crashed on a GPU machine


def without_copies(text: str) -> str:
    """Return a program whose copies, which change nothing, are reshapes to the same shape: StableHLO has no copy."""
    return COPY.sub(r"stablehlo.reshape \1 : (\2) -> \2", text)


def check_portable(text: str) -> None:
    """Raise an error if `text` has operations of other dialects than StableHLO.

    JAX's client on a GPU takes no others; that on a CPU takes more. This conversion is the one in front of the GPU.
    """
    _jax.mlir.serialize_portable_artifact(text, stablehlo.get_current_version())


def at_precision(text: str, precision: str) -> str:
    """Return the StableHLO `text`, whose products are in float32, with products in `precision`.

    With bfloat16, factors and results of each product are rounded to bfloat16. Everything else stays in float32.
    """
    if precision == "float32":
        return text
    text = text.replace("[HIGHEST, HIGHEST]", "[DEFAULT, DEFAULT]").replace("<precision HIGHEST>", "<precision DEFAULT>")
    return text if precision == "tf32" else "\n".join(map(_low_product, text.split("\n")))


def _low_product(line: str) -> str:
    match = PRODUCT.fullmatch(line)
    if not match:
        return line
    part = match.groupdict()
    base = "%low" + part["name"][1:].replace("#", "_")
    wide, low = (f"tensor<{part['shape']}x{dtype}>" for dtype in ("f32", "bf16"))
    lines, factors = [], []
    for side in ("left", "right"):
        shape = part[f"{side}_shape"]
        factors.append(f"tensor<{shape}xbf16>")
        lines.append(f"{base}_{side} = stablehlo.convert {part[side]} : (tensor<{shape}xf32>) -> {factors[-1]}")
    operands = f"{part['open']}{base}_left, {base}_right{part['middle']}"
    lines.append(f"{base} = stablehlo.{part['kind']}{operands} : ({', '.join(factors)}) -> {low}{part['rest']}")
    lines.append(f"{part['name']} = stablehlo.convert {base} : ({low}) -> {wide}")
    return "\n".join(part["indent"] + line for line in lines)


class Folder:
    """An export, with its arrays on the device.

    Args:
      path: The folder.
    """

    def __init__(self, path: Any):
        self.path = Path(path)
        self.manifest = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        self.kernels, self.programs = self.manifest["kernels"], self.manifest["programs"]
        self.inputs, self.reference = (self._read(f"{name}.npz") for name in ("inputs", "reference"))
        self.weights = read_weights(self.path)
        self._placed: dict[Any, Any] = {}

    def _read(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path / name) as file:
            return {key: file[key] for key in file.files}

    def weight(self, key: Any) -> jax.Array:
        """Return a stored weight on the device, or one drawn by shape if the export holds none: each call draws another."""
        if isinstance(key, str):
            if key not in self._placed:
                self._placed[key] = jax.device_put(self.weights[key])
            return self._placed[key]
        shape, dtype = key
        values = np.random.default_rng(len(self._placed)).standard_normal(shape, "float32")
        # The variance of a product of ReLUs stays the same.
        return jax.device_put((values * np.sqrt(2 / max(1, np.prod(shape[:-1])))).astype(dtype))

    def weights_of(self, name: str) -> list[jax.Array]:
        """Return the weights of program `name`. Programs of one kernel and pair share them."""
        keys = self.programs[name]["weights"]
        held = json.dumps(keys)
        if held not in self._placed:
            self._placed[held] = [self.weight(key) for key in keys]
        placed: list[jax.Array] = self._placed[held]
        return placed

    def text_of(self, name: str) -> str:
        """Return program `name` as StableHLO."""
        with CONVERSION:
            text = without_copies(str(_jax.mlir.xla_computation_to_mlir_module(self.computation(name))))
            check_portable(text)
        return text

    def computation(self, name: str) -> Any:
        return xla_client.XlaComputation(gzip.decompress((self.path / self.programs[name]["file"]).read_bytes()))

    def flop_of(self, name: str) -> float:
        """Return the FLOP of program `name` by XLA's count, the bodies of loops once."""
        client = jax.devices("cpu")[0].client
        return float(_jax.hlo_module_cost_analysis(client, self.computation(name).get_hlo_module())["flops"])


class Program:
    """A compiled program.

    Args:
      folder: An export.
      name: A program in it.
      precision: One of `PRECISIONS`.
    """

    def __init__(self, folder: Folder, name: str, precision: str = "float32"):
        start = time.monotonic()
        self.folder, self.name, self.about = folder, name, folder.programs[name]
        self.kernel = folder.kernels[self.about["kernel"]]
        device = jax.devices()[0]
        devices = xla_client.DeviceList((device,))
        text = at_precision(folder.text_of(name), precision)
        self.parameters = PARAMETER.findall(next(line for line in text.splitlines() if "func.func" in line and "@main" in line))
        self.executable = device.client.compile_and_load(text, devices, xla_client.CompileOptions())
        self.compile_seconds = time.monotonic() - start

    def arguments(self, z: Any, results: Any = (), count: int | None = None) -> list[jax.Array]:
        """Return the arguments at `z`, for `count` transitions."""
        given = {"z": z} | {f"results_{k}": leaf for k, leaf in enumerate(results)}
        if count is not None:
            given["count"] = np.int32(count)
        key = self.about["kernel"]
        values = [given[leaf] if leaf in given else self.folder.inputs[f"{key}/{leaf}"] for leaf in self.about["inputs"]]
        return self._used([*map(jax.device_put, values), *self.folder.weights_of(self.name)])

    def _used(self, arguments: list[jax.Array]) -> list[jax.Array]:
        """Return those of `arguments` that are parameters, by their types.

        TensorFlow's bridge takes some inputs as constants: z of a bootstrap, and the seed and `first` of a chunk. Matching from
        the end keeps `count`, of the same type as `first`.
        """
        left, used = list(arguments), []
        for parameter in reversed(self.parameters):
            while "x".join([*map(str, left[-1].shape), TYPES[left[-1].dtype.name]]) != parameter:
                left.pop()
            used.append(left.pop())
        return used[::-1]

    def run(self, arguments: list[jax.Array]) -> list[jax.Array]:
        """Return the outputs."""
        outputs = self.executable.execute_sharded(arguments).disassemble_into_single_device_arrays()
        return [shards[0] for shards in outputs]

    def chunk(self, arguments: list[jax.Array]) -> dict[str, Any]:
        """Return the outputs of a chunk by name: `z`, `results`, `cost` and the traces of all rows."""
        z, *rest = self.run(arguments)
        size = self.kernel["num_results"]
        traces = dict(zip(self.kernel["traces"], rest[size:], strict=False))
        return {"end": z, "results": rest[:size], "cost": rest[-1], **traces}


def start_of(bootstrap: Program, chunk: Program) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return z and the kernel results for the chains of `chunk`: those of the bootstrap's few chains, repeated.

    A leaf has one row per chain if its shape in the two programs differs. All other leaves are the same for all chains.
    """
    few, num_results = bootstrap.about["chains"], chunk.kernel["num_results"]
    times = -(-chunk.about["chains"] // few)
    z = chunk.folder.inputs[f"{chunk.kernel['z']}/z"][:few]
    leaves = [np.asarray(leaf) for leaf in bootstrap.run(bootstrap.arguments(z))]
    shapes = chunk.about["outputs"][1 : 1 + num_results]
    repeated = lambda leaf: np.tile(leaf, [times] + [1] * (leaf.ndim - 1))  # noqa: E731
    return repeated(z), [
        leaf if list(leaf.shape) == shape else repeated(leaf) for leaf, shape in zip(leaves, shapes, strict=True)
    ]
