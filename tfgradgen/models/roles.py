"""Which of a model's functions serves a role, and which of its inputs is what."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.batching import by_parts
from tfgradgen.checks import fail
from tfgradgen.models.families import Use
from tfgradgen.models.saved_model import CALL, Opened, Signature
from tfgradgen.text import printable

# In this order, where several fit; what else fits is not guessed among.
PREFERRED = (CALL, "serving_default", "default", "generator", "generate", "discriminator", "discriminate", "encode")
EXTRAS = ("truncation", "y", "labels", "z")  # inputs beside the main one that a caller here knows how to fill


class Bound(NamedTuple):
    """A function chosen for a role. fn: {input: tensor of any number type} -> the output tensor. main: name of its input of
    latent points or of pictures. extras: its other inputs. output: name of the output, '' where a call first tells."""

    name: str
    fn: Callable[[Mapping[str, Any]], Any]
    main: str
    spec: tf.TensorSpec
    extras: Mapping[str, tf.TensorSpec]
    output: str


def bind(opened: Opened, role: str, use: Use, wanted: str | None = None) -> Bound:
    """Chooses the function of `opened` for `role`.

    Args:
      use: what is known of the family.
      wanted: SIGNATURE or SIGNATURE:OUTPUT, which overrides it; of an unknown family also by `signature` in its model.json.

    Raises:
      UserError: the family has no such role, or none or several functions could serve; the message lists all.
    """
    if use.lacking and not wanted:
        expected = f"a {role}"
        raise fail(f"model {opened.handle}", expected, f"a model of the family {use.lacking}, which has none", "give another")
    if not wanted and not use.is_known and isinstance(opened.metadata.get("signature"), str):
        wanted = opened.metadata["signature"]
    name, _, output = (wanted or use.signature).partition(":")
    output = output or ("" if wanted else use.output)
    flag = _way_to_say(role, "NAME or NAME:OUTPUT")
    if wanted and name not in opened.signatures:
        raise fail(
            f"model {opened.handle} signature {name}",
            "one that it has",
            f"signatures {'; '.join(opened.listed()) or 'none'}",
            flag,
        )
    fitting = [known for known in (*PREFERRED, *opened.signatures) if known in opened.signatures]
    fitting = [known for known in dict.fromkeys(fitting) if _main(role, opened.signatures[known]) is not None]
    if name not in opened.signatures:
        sure = [known for known in fitting if known in PREFERRED] or fitting
        if not sure or (sure[0] not in PREFERRED and len(sure) > 1):
            purpose = {"generator": "latent points to pictures", "encoder": "pictures to latent points"}
            expected = f"one signature of {purpose.get(role, 'pictures to scores')}"
            raise fail(f"model {opened.handle}", expected, f"signatures {'; '.join(opened.listed()) or 'none'}", flag)
        name = sure[0]
    signature = opened.signatures[name]
    main = _main(role, signature)
    if main is None:
        raise fail(f"model {opened.handle} signature {printable(name)}", f"what a {role} takes and gives", str(signature), flag)
    output = _output(role, opened, name, output)
    function = opened.function(name)
    extras = {key: spec for key, spec in signature.inputs.items() if key != main}

    def call(inputs: Mapping[str, Any]) -> Any:
        found = function({key: tf.cast(value, signature.inputs[key].dtype) for key, value in inputs.items()})
        return found[output or next(iter(found))]

    return Bound(printable(name), call, main, signature.inputs[main], extras, output)


def in_batches(fn: Callable[[Any], Any], bound: Bound) -> Callable[[Any], Any]:
    """`fn`, of the rows of the main input, for any number of them, also where the function takes a fixed one."""
    size = bound.spec.shape[0] if bound.spec.shape.rank else None
    return by_parts(fn, size) if size else fn


def _way_to_say(role: str, signature: str) -> str:
    """What to do to have `signature` chosen: the models that a run samples have flags for it, those that look on have none."""
    if role in ("generator", "classifier"):
        return f"give --{role}_signature={signature}"
    return f"name it in its model.json, as signature: {signature}"


def _main(role: str, signature: Signature) -> str | None:
    """The input that the role is about; None where the function cannot serve."""
    rank = 2 if role == "generator" else 4
    floats = {key: spec for key, spec in signature.inputs.items() if spec.dtype.is_floating}
    fits = [key for key, spec in floats.items() if spec.shape.rank in (None, rank) and key not in ("truncation", "y")]
    if role in ("classifier", "judge") and len(signature.inputs) == 1 and not fits:
        fits = [key for key, spec in floats.items() if spec.shape.rank == 1]  # a waveform
    named = [key for key in fits if key in ("z", "x", "images", "inputs")]
    fits = named if len(fits) > 1 else fits
    others = [key for key in signature.inputs if key not in (*fits[:1], *EXTRAS)]
    gives = [spec.shape.rank for spec in signature.outputs.values() if spec.dtype.is_floating]
    right = {"generator": (4, 2)}.get(role, (2, 1))
    is_given = not signature.outputs or any(rank in (None, *right) for rank in gives)
    return fits[0] if len(fits) == 1 and not others and is_given else None


def _output(role: str, opened: Opened, name: str, wanted: str) -> str:
    outputs = opened.signatures[name].outputs
    where, listed = f"model {opened.handle} signature {printable(name)}", ", ".join(map(printable, outputs))
    remedy = _way_to_say(role, f"{printable(name)}:OUTPUT")
    if wanted and outputs and wanted not in outputs:
        raise fail(
            where,
            f"an output {wanted}",
            listed,
            remedy,
        )
    if wanted or not outputs:
        return wanted
    ranks = (None, 4) if role == "generator" else (None, 1, 2)
    fitting = [key for key, spec in outputs.items() if spec.dtype.is_floating and spec.shape.rank in ranks]
    for key in ("default", "generated", "logits", "prediction"):
        if key in fitting:
            return key
    if len(outputs) == 1 or len(fitting) == 1:
        return (fitting or list(outputs))[0]
    raise fail(
        where,
        "one output that fits",
        listed,
        remedy,
    )
