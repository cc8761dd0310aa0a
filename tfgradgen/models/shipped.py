"""The models that come with the package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# The last two only measure images; sampling does not use them.
SHIPPED_MODELS = ("generator", "classifier", "judge", "discriminator")


def default_model(name: str) -> Path:
    """Return the folder of the shipped model `name`: in the installed package, or next to the package in a clone."""
    installed, cloned = PACKAGE / "saved_models" / name, PACKAGE.parent / "saved_models" / name
    return installed if installed.is_dir() else cloned
