"""The models that come with the package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# The last two take no part in sampling: they measure what was drawn.
SHIPPED_MODELS = ("generator", "classifier", "judge", "discriminator")


def default_model(name: str) -> Path:
    """The shipped model `name`: inside the installed package, or beside it in a clone."""
    inside, beside = PACKAGE / "saved_models" / name, PACKAGE.parent / "saved_models" / name
    return inside if inside.is_dir() else beside
