"""The exported programs of tools/device, run by JAX's client on this CPU. The measurement itself needs a GPU."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support.tooling import tool
from tfgradgen.core.config import changed_config
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.posterior import ClassPosterior

CHAINS = [2, 4]
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
has_jax = importlib.util.find_spec("jax") is not None
needs_jax = pytest.mark.skipif(
    not has_jax, reason="THE PROGRAMS OF tools/device WERE NOT RUN: JAX is missing; pip install '.[test]'"
)


class SmallGenerator(tf.Module):
    """A generator z [B, 6] -> image [B, 8, 8, 3] with a weight that the programs share."""

    latent_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(np.random.default_rng(0).standard_normal([3, 3, 6, 3]).astype("float32") / 7)

    def __call__(self, z: Any) -> tf.Tensor:
        x = tf.tile(z[:, None, None], [1, 8, 8, 1]) * tf.reshape(tf.linspace(0.5, 1.5, 64), [1, 8, 8, 1])
        return tf.tanh(tf.nn.conv2d(x, self.kernel, 1, "SAME"))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of a small pair instead of the shipped one, and of a program whose weights are not stored."""
    exporter, pair = tool("export_programs"), tool("large_pair")
    folder = exporter.Folder(tmp_path_factory.mktemp("export"))
    posterior = ClassPosterior(SmallGenerator(), pair.PooledClassifier(), 0)
    z = folder.inputs["shipped/z"] = tool("bench_worker").latent_points(CHAINS[-1], posterior.latent_dim)
    for kernel, counts in (("mala", CHAINS), ("hmc", CHAINS[:1])):
        config = changed_config(kernel_sampler(kernel).defaults, {"step_size": 0.5})
        exporter.export_kernel(folder, "shipped", posterior, kernel, config, z, counts)
        if kernel == "mala":  # the reference is compiled by XLA, which takes most of the time
            exporter.add_reference(folder, f"shipped_{kernel}", posterior, kernel, config, z[: counts[0]])
    large = tf.function(pair.LargeGenerator(4).__call__, jit_compile=True, autograph=False)
    args = {"z": tf.zeros([1, pair.LATENT_DIM])}
    folder.add_program("large", large, args, False, kernel="large", role="generator", chains=1)
    folder.add_weight(max(tool("bench_worker").network_arrays()["classifier"], key=np.size))
    folder.write()
    path: Path = folder.path
    return path


def test_weights_are_stored_once_and_drawn_or_shipped_ones_not_at_all(export: Path) -> None:
    manifest = json.loads((export / "manifest.json").read_text())
    with np.load(export / "weights.npz") as weights:
        (key,) = weights.files
        assert weights[key].shape == (3, 3, 6, 3)
    ((shipped, (file, *_)),) = manifest["places"].items()
    assert file.startswith("saved_models/")
    assert set(tool("arrays").read_weights(export)) == {key, shipped}
    programs = manifest["programs"]
    assert {name for name, program in programs.items() if program["weights"] == [key]} == {
        *("shipped_mala_bootstrap", "shipped_mala_2", "shipped_mala_4"),
        *("shipped_hmc_bootstrap", "shipped_hmc_2"),
    }
    assert [1, 1, 64, 16] in [shape for shape, _ in programs["large"]["weights"]]
    with np.load(export / "inputs.npz") as inputs:
        for name, program in programs.items():
            stored = [leaf for leaf in program["inputs"] if leaf != "z" and not leaf.startswith("results")]
            assert name == "large" or all(f"{program['kernel']}/{leaf}" in inputs for leaf in stored)


@needs_jax
def test_the_programs_compute_the_same_by_the_client_of_jax(root: Path, export: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.device.measure_sampler", f"--folder={export}", f"--out={tmp_path}"]
    (tmp_path / "free").touch()
    command += ["--parts=programs,errors", "--seconds=400", f"--wait_for={tmp_path / 'free'}"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "MEASURE_QUICKLY": "1", "XLA_FLAGS": QUICK_COMPILATION}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "measures.json").read_text())
    of = lambda kind: [record for record in records if record["kind"] == kind]  # noqa: E731
    assert not of("failed"), done.stderr
    assert {record["what"].split()[0] for record in of("bits")} == {"shipped_mala"}
    assert all(record["ok"] for record in of("bits"))
    assert all(record["other_than_cpu"] == 0 for record in of("decisions"))
    timed = {(record["kernel"], record["chains"], record["precision"]) for record in of("sampler")}
    assert timed == {("shipped_mala", 2, "float32"), ("shipped_mala", 4, "float32"), ("shipped_hmc", 2, "float32")}
    errors = {record["precision"]: record["log_density"] for record in of("error")}
    assert 0 < errors["bfloat16"] < 1
    assert "within tolerance" in done.stdout


@needs_jax
def test_programs_are_stablehlo_as_the_client_on_a_gpu_takes_it(export: Path) -> None:
    programs = tool("programs")
    folder = programs.Folder(export)
    copies = 0
    for name in folder.programs:
        raw = str(programs._jax.mlir.xla_computation_to_mlir_module(folder.computation(name)))
        copies += raw.count("= mhlo.copy ")
        text = folder.text_of(name)  # converted as for a GPU, which raises an error for other operations
        assert not re.findall(r"= \"?mhlo\.", text)
        assert len(text.splitlines()) == len(raw.splitlines())
    assert copies
    with pytest.raises(RuntimeError, match=r"mhlo\.copy"):
        programs.check_portable(
            "func.func @main(%0: tensor<2xf32>) -> tensor<2xf32> {\n %1 = mhlo.copy %0 : tensor<2xf32>\n"
            " return %1 : tensor<2xf32>\n}"
        )


@needs_jax
def test_products_are_rewritten_in_bfloat16_and_nothing_else() -> None:
    at_precision = tool("programs").at_precision
    types = "(tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>"
    product = f"    %7 = stablehlo.dot %5, %6#1, precision = [HIGHEST, HIGHEST] : {types}"
    other = "    %8 = stablehlo.add %7, %7 : tensor<2x4xf32>"
    text = f"{product}\n{other}"
    assert at_precision(text, "float32") == text
    assert at_precision(text, "tf32") == text.replace("HIGHEST", "DEFAULT")
    assert at_precision(text, "bfloat16").splitlines() == [
        "    %low7_left = stablehlo.convert %5 : (tensor<2x3xf32>) -> tensor<2x3xbf16>",
        "    %low7_right = stablehlo.convert %6#1 : (tensor<3x4xf32>) -> tensor<3x4xbf16>",
        "    %low7 = stablehlo.dot %low7_left, %low7_right, precision = [DEFAULT, DEFAULT] : "
        "(tensor<2x3xbf16>, tensor<3x4xbf16>) -> tensor<2x4xbf16>",
        "    %7 = stablehlo.convert %low7 : (tensor<2x4xbf16>) -> tensor<2x4xf32>",
        other,
    ]
