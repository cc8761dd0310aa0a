"""An export runs without TFP and Python: through TensorFlow's C API, with TensorFlow alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.support import standins
from tfgradgen.cli.commands import main
from tfgradgen.serving.adapt import Adapted

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "support" / "run_export.c"
PROGAN = "https://tfhub.dev/google/progan-128/1"
INVALID_ARGUMENT = 3  # TF_INVALID_ARGUMENT


def from_python(export: Path, label: str, seed: int) -> dict[str, bytes]:
    """Return the bytes of every output, as TensorFlow's Python API gives them."""
    served = tf.saved_model.load(str(export)).signatures["serving_default"]
    outputs = served(label=tf.constant([label]), seed=tf.constant([seed], tf.int64))
    return {name: t.numpy()[0] if t.dtype == tf.string else t.numpy().tobytes() for name, t in outputs.items()}


def test_a_c_program_gives_the_same_bits(served: Path, tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    assert compiler, "gcc is needed to compile tests/support/run_export.c: install it (apt-get install gcc)"
    home, program = Path(tf.__file__).parent, tmp_path / "run_export"
    quick = ["-fuse-ld=gold"] if shutil.which("ld.gold") else []  # the usual linker takes long for a gigabyte of TensorFlow
    libraries = [*quick, "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{home}"]
    command = [compiler, "-O2", "-Wall", "-Werror", f"-I{home / 'include'}", str(SOURCE), "-o", str(program), f"-L{home}"]
    subprocess.run([*command, *libraries], check=True)

    saved = SavedModel.FromString((served / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    feeds = [signature.inputs[name].name.split(":")[0] for name in ("label", "seed")]
    names = sorted(signature.outputs)
    fetches = [part for name in names for part in signature.outputs[name].name.split(":")]

    requests = [("goldfish", 7), ("whale", 0), ("n02056570", -(2**40))]
    done = subprocess.run(
        [str(program), str(served), *feeds, *fetches],
        input="".join(f"{seed} {label}\n" for label, seed in requests),
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    refused = lines.pop(len(names))
    for start, (label, seed) in ((0, requests[0]), (len(names), requests[2])):
        printed = dict(zip(names, map(bytes.fromhex, lines[start : start + len(names)]), strict=True))
        assert printed == from_python(served, label, seed)
    assert len(lines) == 2 * len(names)
    assert refused.startswith(f"! {INVALID_ARGUMENT} ")
    assert "expected a name, WordNet id or index of goldfish, king_penguin, alp; got whale]" in refused


@pytest.fixture(scope="module")
def foreign(toy_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a generator in TF1 format, and a classifier with another input size."""
    folder = tmp_path_factory.mktemp("foreign")
    generator = standins.build(PROGAN, folder / "progan")
    few = ["--num_chains=2", "--num_steps=2", "--num_start_draws=2", "--batch_sizes=1", "--labels=alp"]
    models = [f"--generator={generator}", "--generator_prior=normal", f"--classifier={toy_pair[1]}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfgradgen.cli.export.adapt", lambda *args: Adapted(0.3, 0.5, []))
        main(["export", "--kernel=hmc", *models, *few, f"--out={folder / 'base'}"])
    return folder / "base" / "1"


ALONE = """
import json, sys
for name in ("tensorflow_probability", "tf_keras", "tensorflow_hub", "tfgradgen"):
    sys.modules[name] = None  # an import of it fails
import tensorflow as tf
found = []
for path in sys.argv[1:]:
    module = tf.saved_model.load(path)
    outputs = module.signatures["serving_default"](label=tf.constant(["alp"]), seed=tf.constant([3], tf.int64))
    found.append({name: (t.numpy()[0] if t.dtype == tf.string else t.numpy().tobytes()).hex() for name, t in outputs.items()})
print(json.dumps(found))
"""


def test_a_process_with_tensorflow_alone_gives_the_same_bits(served: Path, foreign: Path, tmp_path: Path) -> None:
    """This includes models in the TF1 format, whose own folder may have been removed."""
    expected = [from_python(export, "alp", 3) for export in (served, foreign)]
    shutil.rmtree(foreign.parents[1] / "progan")
    # Isolated, and in another folder, so that nothing of this project can be found.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", ALONE, str(served), str(foreign)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [{name: value.hex() for name, value in each.items()} for each in expected]
    assert [np.frombuffer(each["z"], np.float32).shape for each in expected] == [(6,), (512,)]
    assert tf.io.decode_png(expected[1]["image_bytes"]).shape == (128, 128, 3)
