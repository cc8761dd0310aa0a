"""The models that come with the package, in sets: those of photographs, of spoken words and of actions."""

import os
from pathlib import Path

from tfgradgen.core.checks import check_choice, fail

PACKAGE = Path(__file__).resolve().parents[1]

# The judge and the discriminator only measure images; sampling does not use them.
SHIPPED_MODELS = ("generator", "classifier", "text", "judge", "discriminator")
FOLDERS = {"text_model": "text"}  # of a role with another name
PHOTOGRAPHS = "photographs"
# Set of models -> its models, and the folder that holds theirs.
MODEL_SETS: dict[str, tuple[tuple[str, ...], str]] = {
    PHOTOGRAPHS: (SHIPPED_MODELS, ""),
    "speech": (("generator", "classifier", "judge"), "speech"),
    "actions": (("generator", "classifier", "judge"), "actions"),
}


def default_model(name: str, models: str = PHOTOGRAPHS) -> Path:
    """Return the folder of the shipped model `name` of a set: in the installed package, or next to the package in a clone."""
    place = Path("saved_models", MODEL_SETS[models][1], name)
    installed, cloned = PACKAGE / place, PACKAGE.parent / place
    return installed if installed.is_dir() else cloned


def shipped_model(name: str, models: str) -> Path:
    """Return the folder of the shipped model `name` of the set `models`.

    Raises:
      UserError: There is no such set, it is not installed, or it has no such model.
    """
    check_choice("models", models, MODEL_SETS)
    if name not in MODEL_SETS[models][0]:
        having = ", ".join(other for other, (names, _) in MODEL_SETS.items() if name in names)
        raise fail("models", f"a set with a {name}: {having}", models, f"give a --{name}, or leave out what needs one")
    folder = default_model(name, models)
    if models != PHOTOGRAPHS and not folder.is_dir():
        got = f"{models}, whose {name} is missing"
        raise fail("models", "a set of models that is installed", got, f"install it, or give --{name}=MODEL")
    return folder


def set_of(role: str, handle: str) -> str | None:
    """Return the set whose shipped model of that role is at `handle`; None if it is none of them."""
    return next((models for models in MODEL_SETS if handle == str(default_model(role, models))), None)


def local_model(role: str, handle: str, is_alone: bool = True) -> str | None:
    """Return the place of a model that a file from outside names; None if the model is not on this machine.

    Such a file must not cause a download. It can name a path on this machine, or the shipped model of that role by its path on
    another machine.

    Args:
      role: 'generator', 'classifier', 'text_model' or 'discriminator'.
      handle: What the file says.
      is_alone: Whether it is the only model of its role; the shipped one is never one of several.
    """
    path = "" if "\0" in handle else os.path.expanduser(handle)
    if os.path.isdir(path) or os.path.isfile(path):
        return handle
    place, name = handle.replace("\\", "/"), FOLDERS.get(role, role)
    for models, (_, folder) in MODEL_SETS.items():
        shipped = default_model(name, models)
        if is_alone and place.endswith("/".join(filter(None, ("saved_models", folder, name)))) and shipped.is_dir():
            return str(shipped)
    return None


def handles_of(text: str) -> list[str]:
    """Return the handles in A,B. If the whole text is a path that exists, its commas are part of it."""
    if "\0" not in text and os.path.exists(os.path.expanduser(text)):
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]
