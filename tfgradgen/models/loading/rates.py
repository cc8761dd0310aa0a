"""The rate of the sounds or clips of a model, from what is given, its model.json or its family."""

from collections.abc import Mapping
from typing import Any

from tfgradgen.core.checks import fail
from tfgradgen.media.medium import Medium
from tfgradgen.models.loading.families import RoleSpec


def rate_of(
    medium: Medium, given: float | None, card: Mapping[str, Any], use: RoleSpec, where: str
) -> tuple[float | None, bool]:
    """Return the rate, None for a medium without time, and whether it is only the usual one.

    Args:
      medium: What the model gives or takes.
      given: As the caller says; None for nothing.
      card: Content of its model.json.
      use: What is known of its family.
      where: The model, for errors.

    Raises:
      UserError: A rate is given for a medium that has none.
    """
    if not medium.rate_name:
        if given is not None:
            raise fail("rate", f"none for {where}, a model of {medium.plural}", given, "leave it out")
        return None, False
    said = given or card.get(medium.rate_name) or use.rate
    return (medium.usual_rate, True) if said is None else (float(said), False)
