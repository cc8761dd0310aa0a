"""The models that come with the package."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# The judge and the discriminator only measure images; sampling does not use them.
SHIPPED_MODELS = ("generator", "classifier", "text", "judge", "discriminator")
FOLDERS = {"text_model": "text"}  # of a role with another name


def default_model(name: str) -> Path:
    """Return the folder of the shipped model `name`: in the installed package, or next to the package in a clone."""
    installed, cloned = PACKAGE / "saved_models" / name, PACKAGE.parent / "saved_models" / name
    return installed if installed.is_dir() else cloned


def local_model(role: str, handle: str, is_alone: bool = True) -> str | None:
    """Return where a model is that a file from outside names; None if it is not on this machine.

    Such a file decides nothing that is downloaded. So it can name what is on the disk, or the shipped model of that role by its
    place on another machine.

    Args:
      role: 'generator', 'classifier', 'text_model' or 'discriminator'.
      handle: What the file says.
      is_alone: Whether it is the only model of its role; the shipped one is never one of several.
    """
    path = "" if "\0" in handle else os.path.expanduser(handle)
    if os.path.isdir(path) or os.path.isfile(path):
        return handle
    name = FOLDERS.get(role, role)
    shipped = default_model(name)
    is_shipped = is_alone and handle.replace("\\", "/").endswith(f"saved_models/{name}") and shipped.is_dir()
    return str(shipped) if is_shipped else None


def handles_of(text: str) -> list[str]:
    """Return the handles in A,B. A comma in the name of what is on the disk separates nothing."""
    if "\0" not in text and os.path.exists(os.path.expanduser(text)):
        return [text]
    return [part.strip() for part in text.split(",") if part.strip()]
