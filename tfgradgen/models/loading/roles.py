"""Choice of the function of a model for a role, and identification of its inputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.core.batching import map_batched
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.contracts import IMAGE_CHANNELS
from tfgradgen.core.text import printable
from tfgradgen.media.registry import kind_of
from tfgradgen.models.loading.families import RoleSpec
from tfgradgen.models.loading.inputs import Inputs, Misfit, inputs_of, is_switch, listed
from tfgradgen.models.loading.saved_model import CALL, Opened, Signature
from tfgradgen.models.loading.settings import ModelSettings

# Preference order if several signatures are suitable. Any other ambiguity is an error.
PREFERRED = (CALL, "serving_default", "default", "generator", "generate", "discriminator", "discriminate", "encode")
MOST_SHOWN = 150  # characters of signatures in an error
PURPOSES = {"generator": "latent points to images", "encoder": "images to latent points"}


class BoundSignature(NamedTuple):
    """A function chosen for a role.

    Attributes:
      name: Name of the signature.
      fn: {input: tensor of any numeric dtype} -> output tensor.
      main: Name of the input for latent points or images.
      spec: Spec of that input.
      extras: Specs of its other inputs.
      output: Name of the output; '' if it is known only after a call.
      class_name: Name of a generator's class input; '' if it has none.
      class_is_guess: Whether the class input was identified by shapes or names only.
      gives: Spec of the output; None if it is known only after a call.
    """

    name: str
    fn: Callable[[Mapping[str, Any]], Any]
    main: str
    spec: tf.TensorSpec
    extras: Mapping[str, tf.TensorSpec]
    output: str
    class_name: str = ""
    class_is_guess: bool = False
    gives: tf.TensorSpec | None = None


def bind_signature(opened: Opened, role: str, use: RoleSpec, given: ModelSettings | None = None) -> BoundSignature:
    """Choose the function of `opened` for `role`.

    Args:
      opened: The model.
      role: 'generator', 'classifier', 'discriminator', 'encoder' or 'judge'.
      use: What is known from the family of the model.
      given: Settings. A signature in them, SIGNATURE or SIGNATURE:OUTPUT, overrides that of the family; for an unknown family
        so does `signature` in model.json. For a generator they may name the class input.

    Raises:
      UserError: The family has no such role, or no function or several are suitable. The message lists all functions, or says
        what the only one lacks.
    """
    given = given or ModelSettings()
    wanted = given.signature
    if use.lacking and not wanted:
        got = f"a model of the family {use.lacking}, which has none"
        raise fail(f"model {opened.handle}", f"a {role}", got, "give another model")
    if not wanted and not use.is_known and isinstance(opened.metadata.get("signature"), str):
        wanted = opened.metadata["signature"]
    name, _, output = (wanted or use.signature).partition(":")
    output = output or ("" if wanted else use.output)
    flag = _way_to_say(role, "NAME or NAME:OUTPUT")
    if wanted and name not in opened.signatures:
        raise fail(
            f"model {opened.handle} signature {name}",
            "one of the model's signatures",
            _listing(opened),
            flag,
        )
    found = {known: _fit(role, signature, given) for known, signature in opened.signatures.items()}
    if name not in opened.signatures:
        name = _choose(opened, role, found)
    inputs = found[name]
    if isinstance(inputs, Misfit):
        whole = Misfit(_brief(opened.signatures[name]), flag)
        raise _misfit(opened, role, name, inputs if inputs.is_near else whole)
    return _bound(opened, name, inputs, _output(role, opened, name, output))


def _bound(opened: Opened, name: str, inputs: Inputs, output: str) -> BoundSignature:
    (specs, outputs), function = opened.signatures[name], opened.function(name)
    switches = {key: tf.constant(False) for key, spec in specs.items() if is_switch(spec)}
    extras = {key: spec for key, spec in specs.items() if key != inputs.main and key not in switches}

    def call(values: Mapping[str, Any]) -> Any:
        given = {**values, **switches}
        found = function({key: tf.cast(given[key], specs[key].dtype) for key in specs if key in given})
        return found[output or next(iter(found))]

    gives = outputs.get(output or next(iter(outputs), ""))
    spec, class_name = specs[inputs.main], inputs.class_name
    return BoundSignature(printable(name), call, inputs.main, spec, extras, output, class_name, inputs.is_guess, gives)


def in_batches(fn: Callable[[Any], Any], bound: BoundSignature) -> Callable[[Any], Any]:
    """Return `fn` for any number of rows, even if the model has a fixed batch size."""
    size = bound.spec.shape[0] if bound.spec.shape.rank else None
    return map_batched(fn, size) if size else fn


def _way_to_say(role: str, signature: str) -> str:
    """Return the remedy that selects `signature`: a flag for the models that are sampled, model.json for others."""
    if role in ("generator", "classifier"):
        return f"give --{role}_signature={signature}"
    return f"add signature: {signature} to its model.json"


def _choose(opened: Opened, role: str, found: Mapping[str, Inputs | Misfit]) -> str:
    """Return the name of the suitable function; raise `UserError` if there is none or the choice is ambiguous."""
    order = [known for known in dict.fromkeys((*PREFERRED, *found)) if known in found]
    fitting = [known for known in order if isinstance(found[known], Inputs)]
    fitting = [known for known in fitting if not found[known].is_last_resort] or fitting  # type: ignore[union-attr]
    sure = [known for known in fitting if known in PREFERRED] or fitting
    if sure and (sure[0] in PREFERRED or len(sure) == 1):
        return sure[0]
    near = [known for known in order if isinstance(found[known], Misfit) and (len(order) == 1 or found[known].is_near)]  # type: ignore[union-attr]
    if not fitting and near:
        raise _misfit(opened, role, near[0], found[near[0]])  # type: ignore[arg-type]
    expected = f"one signature from {PURPOSES.get(role, 'images to scores')}"
    raise fail(f"model {opened.handle}", expected, _listing(opened), _way_to_say(role, "NAME or NAME:OUTPUT"))


def _listing(opened: Opened) -> str:
    """Return the signatures of a model, or only their names if the list is too long for an error."""
    whole = f"signatures {'; '.join(opened.listed()) or 'none'}"
    return whole if len(whole) <= MOST_SHOWN else f"signatures {', '.join(map(printable, opened.signatures))}"


def _brief(signature: Signature) -> str:
    """Return a signature, or only the names in it if it is too long for an error."""
    names = [", ".join(map(printable, side)) for side in signature]
    return str(signature) if len(str(signature)) <= MOST_SHOWN else f"({names[0]}) -> ({names[1]})"


def _misfit(opened: Opened, role: str, name: str, misfit: Misfit) -> UserError:
    where = f"model {opened.handle} signature {printable(name)}"
    return fail(where, f"the inputs and outputs of a {role}", misfit.got, misfit.remedy)


def _fit(role: str, signature: Signature, given: ModelSettings) -> Inputs | Misfit:
    """Identify the inputs of a function for a role, or return why it is not suitable."""
    inputs, outputs = inputs_of(role, signature.inputs, given), signature.outputs
    if isinstance(inputs, Misfit) and role == "generator" and outputs and all(s.shape.rank in (1, 2) for s in outputs.values()):
        return inputs._replace(is_near=False)  # neither inputs nor outputs are those of a generator
    if not outputs or any(_serves(role, spec) for spec in outputs.values()):
        return inputs
    got = f"outputs {listed(outputs)}"
    if role == "generator":
        return Misfit(got, "export a function that returns images [?, height, width, channels]", is_near=False)
    return Misfit(got, "export a function that returns one row of scores per image", is_near=False)


def _serves(role: str, spec: tf.TensorSpec) -> bool:
    """Return whether an output suits a role: images, sounds or clips; scores; or latent points."""
    rank = spec.shape.rank
    if role == "generator":  # integers are images in 0 to 255, which have no gradient
        is_number = spec.dtype.is_floating or (spec.dtype.is_integer and rank != 2)
        if rank == 3:  # grey images [?, height, width], or sounds with an axis of one channel
            is_sound = spec.shape[0] is None and 1 in spec.shape[1:]  # with a fixed first axis it may be one image
            return is_number and (is_sound or spec.shape[2] not in IMAGE_CHANNELS)
        return is_number and (rank is None or bool(kind_of(list(spec.shape[1:]))))
    is_row = rank == 4 and tuple(spec.shape[1:3]) == (1, 1)
    return spec.dtype.is_floating and (rank in (None, 2, 1) or is_row)


def _output(role: str, opened: Opened, name: str, wanted: str) -> str:
    outputs = opened.signatures[name].outputs
    where, names = f"model {opened.handle} signature {printable(name)}", ", ".join(map(printable, outputs))
    remedy = _way_to_say(role, f"{printable(name)}:OUTPUT")
    if wanted and outputs and wanted not in outputs:
        raise fail(where, f"an output {wanted}", names, remedy)
    if wanted or not outputs:
        return wanted
    fitting = [key for key, spec in outputs.items() if _serves(role, spec)]
    if role == "generator" and len(fitting) > 1:
        fitting = [key for key in fitting if outputs[key].shape.rank in (None, 4, 5)] or fitting
    for key in ("default", "generated", "logits", "prediction"):
        if key in fitting:
            return key
    if len(outputs) == 1 or len(fitting) == 1:
        return (fitting or list(outputs))[0]
    raise fail(where, "one suitable output", names, remedy)
