"""Export of a trained Keras network to a folder of saved_models/: SavedModel, model.json and MODEL.md. Needs TensorFlow."""

import json
import shutil
from pathlib import Path

import tensorflow as tf

from tfgradgen.models.loading.metadata import FILE_NAME

CARD = "MODEL.md"
UNKNOWN_LICENCE = "The licence of the photographs was not given (`--licence`)."
MEASURED, BUILT, TRIED = "## Measured", "## How it was built", "## What was tried"


class Served(tf.Module):
    """Functions of one tensor with their variables; a call of the module is `fn`."""

    def __init__(self, network, fn, further, spec):
        super().__init__()
        self.weights = [variable.value for variable in network.variables]
        compiled = lambda f: tf.function(f, input_signature=[spec], autograph=False)  # noqa: E731
        self.__call__ = compiled(fn)
        self.further = {name: compiled(f) for name, f in further.items()}


def export(network, fn, input_shape, folder, metadata, further=None):
    """Write a SavedModel of `fn` (float32 [None, *input_shape] -> one tensor) and `metadata` to `folder`, replacing it.

    `fn` uses the variables of `network`; `further` are {signature name: function of the same input}.
    """
    served = Served(network, fn, further or {}, tf.TensorSpec([None, *input_shape], tf.float32, name="input"))
    return write_folder(served, {"serving_default": served.__call__, **served.further}, folder, metadata)


def write_folder(module, signatures, folder, metadata, assets=None):
    """Write a SavedModel of `module`, `metadata` and `assets` {name: text} to `folder`; all but its card is replaced."""
    folder = Path(folder)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    tf.saved_model.save(module, str(beside), signatures=signatures)
    for name, text in (assets or {}).items():
        (beside / "assets").mkdir(exist_ok=True)
        (beside / "assets" / name).write_text(text, encoding="utf-8")
    (beside / "fingerprint.pb").unlink(missing_ok=True)  # contains random ids, so that equal weights would give different files
    (beside / FILE_NAME).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    if (folder / CARD).exists():
        shutil.copy(folder / CARD, beside / CARD)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder


def table(rows):
    """Return {what: text} as a table with two columns and no heading."""
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def write_card(folder, title, interface, built, licence=None):
    """Write MODEL.md; check_models.py adds the measured numbers.

    The section "What was tried" of an earlier card, which is written by hand, is kept.

    Args:
      folder: The folder of the model.
      title: Title of the card.
      interface: {what: text}.
      built: Paragraphs about the training.
      licence: Licence of the photographs.
    """
    card = Path(folder) / CARD
    earlier = card.read_text(encoding="utf-8") if card.exists() else ""
    tried = earlier[earlier.index(TRIED) :] if TRIED in earlier else ""
    text = f"# {title}\n\n{table(interface)}\n\n{MEASURED}\n\n{BUILT}\n\n{built}\n\n{licence or UNKNOWN_LICENCE}\n"
    card.write_text(text + (f"\n{tried}" if tried else ""), encoding="utf-8")


def write_measured(folder, rows, remarks):
    """Replace the measured numbers of a card by `rows` and the paragraphs `remarks`."""
    card = Path(folder) / CARD
    head, rest = card.read_text(encoding="utf-8").split(MEASURED)
    tail = rest[rest.index(BUILT) :]
    card.write_text(f"{head}{MEASURED}\n\n{table(rows)}\n\n{remarks}\n\n{tail}", encoding="utf-8")


def read_measured(folder):
    """Return the measured numbers of a card, {what: text}."""
    text = (Path(folder) / CARD).read_text(encoding="utf-8")
    lines = text[text.index(MEASURED) : text.index(BUILT)].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1] for row in cells if row[0]}
