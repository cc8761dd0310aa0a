"""Files next to the versions of an exported model: server settings, a compose file and clients."""

import json
from pathlib import Path
from string import Template
from typing import NamedTuple

from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium

TEMPLATES = Path(__file__).resolve().parent / "files"
XLA_FLAG = "--xla_cpu_compilation_enabled=true"  # without it TF Serving cannot run functions compiled by XLA


class Settings(NamedTuple):
    """What the files depend on, besides the name of the model and its medium.

    Attributes:
      batch_sizes: Batch sizes to which the server pads, in ascending order.
      xla: Whether the server runs a signature that is compiled by XLA.
      num_steps: Transitions of an image of a grid that a client asks for without a number.
      batched: Rows that go through the networks together in some signatures, another size of batches; None for none.
    """

    batch_sizes: tuple[int, ...]
    xla: bool = False
    num_steps: int = 1
    batched: int | None = None


def render_templates(model: str, settings: Settings, medium: Medium | type[Medium] = Image) -> dict[str, str]:
    """Return the files as file name -> content.

    Args:
      model: Name of the model, and of its folder in the server's container.
      settings: What else they depend on.
      medium: What the generator gives.
    """
    sizes = sorted({*settings.batch_sizes, *filter(None, [settings.batched])})
    flags = {"--num_steps": "", "--grid": "yes"}
    flags |= {"--batched": "yes"} if settings.batched else {}
    flags |= {"--out": ""} | ({"--scale": ""} if medium is Image or isinstance(medium, Image) else {})
    shown = {"--num_steps": "=N", "--out": "=FILE", "--scale": "=N"}
    values = {
        "model": model,
        "num_steps": settings.num_steps,
        "max_batch_size": sizes[-1],
        "allowed_batch_sizes": "\n".join(f"allowed_batch_sizes: {size}" for size in sizes),
        "more_flags": f"\n      - {XLA_FLAG}" if settings.xla else "",
        "kind": medium.kind,
        "noun": medium.noun,
        "what": f"{'An' if medium.noun[0] in 'aeiou' else 'A'} {medium.noun}",
        "ending": medium.ending,
        "flags": json.dumps(flags),
        "usage": " ".join(f"[{flag}{shown.get(flag, '')}]" for flag in flags),
    }
    paths = sorted(TEMPLATES.glob("*.in"))
    return {path.stem: Template(path.read_text(encoding="utf-8")).substitute(values) for path in paths}
