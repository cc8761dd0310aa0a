"""From a trained Keras network to a folder of saved_models/: the SavedModel, model.json and MODEL.md. Needs TensorFlow."""

import json
import shutil
from pathlib import Path

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfgradgen.models.metadata import FILE_NAME, fingerprint


class Served(tf.Module):
    """One function of one tensor, with the variables that it reads."""

    def __init__(self, network, spec):
        super().__init__()
        self.weights = [variable.value for variable in network.variables]
        self.__call__ = tf.function(lambda x: network(x, training=False), input_signature=[spec], autograph=False)


def export(network, input_shape, folder, metadata):
    """Writes the SavedModel of `network` (input float32 [None, *input_shape]) and `metadata` to `folder`, replacing it."""
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    served = Served(network, tf.TensorSpec([None, *input_shape], tf.float32, name="input"))
    tf.saved_model.save(served, str(beside), signatures={"serving_default": served.__call__})
    (beside / "fingerprint.pb").unlink(missing_ok=True)  # holds random ids: the same weights would give another file
    (beside / FILE_NAME).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder


def mega_flop(fn, input_shape):
    """Million floating-point operations of one forward pass for one input; a multiply-add counts as two."""
    concrete = tf.function(fn).get_concrete_function(tf.TensorSpec([1, *input_shape], tf.float32))
    frozen = convert_variables_to_constants_v2(concrete)
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    profile = tf.compat.v1.profiler.profile(frozen.graph, options=options.with_empty_output().build())
    return profile.total_float_ops / 1e6


def megabytes(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


LICENCE_NOTE = """Trained on photographs from Tiny ImageNet (Stanford CS231n, a 64x64 subset of ImageNet), which are for
non-commercial research and education; the photographs themselves are not distributed here."""


def write_card(folder, title, interface, facts, built, remarks):
    """Writes MODEL.md: `interface` and `facts` are {what: text}, `built` and `remarks` are paragraphs."""
    table = lambda rows: "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])  # noqa: E731
    sha = {"sha256 (as `tfgradgen models` prints it)": f"`{fingerprint(Path(folder))}`"}
    text = (
        f"# {title}\n\n{table(interface | sha)}\n\n## Measured\n\n{table(facts)}\n\n{remarks}\n\n"
        f"## How it was built\n\n{built}\n\n{LICENCE_NOTE}\n"
    )
    (Path(folder) / "MODEL.md").write_text(text, encoding="utf-8")
