"""Files next to the versions of an exported model: server settings, a compose file and clients."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).resolve().parent / "files"
XLA_FLAG = "--xla_cpu_compilation_enabled=true"  # without it TF Serving cannot run functions compiled by XLA


def render_templates(model: str, batch_sizes: Sequence[int], xla: bool, num_steps: int = 1) -> dict[str, str]:
    """Return the files as file name -> content.

    Args:
      model: Name of the model, and of its folder in the server's container.
      batch_sizes: Batch sizes to which the server pads, in ascending order.
      xla: Whether the server runs a signature that is compiled by XLA.
      num_steps: Transitions of an image of a grid that a client asks for without a number.
    """
    values = {
        "model": model,
        "num_steps": num_steps,
        "max_batch_size": batch_sizes[-1],
        "allowed_batch_sizes": "\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes),
        "more_flags": f"\n      - {XLA_FLAG}" if xla else "",
    }
    paths = sorted(TEMPLATES.glob("*.in"))
    return {path.stem: Template(path.read_text(encoding="utf-8")).substitute(values) for path in paths}
