"""What stands beside the versions of an exported model: settings of the server, a way to start it, and clients."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

TEMPLATES = Path(__file__).resolve().parent / "files"
XLA_FLAG = "--xla_cpu_compilation_enabled=true"  # without it TF Serving fails every function that XLA is to compile


def texts(model: str, batch_sizes: Sequence[int], xla: bool) -> dict[str, str]:
    """File name -> content.

    Args:
      model: its name, also that of the folder in the server's container.
      batch_sizes: rising; what the server fills batches up to, the last one at most.
      xla: whether the server has to run a signature that is compiled by XLA.
    """
    values = {
        "model": model,
        "max_batch_size": batch_sizes[-1],
        "allowed_batch_sizes": "\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes),
        "more_flags": f"\n      - {XLA_FLAG}" if xla else "",
    }
    paths = sorted(TEMPLATES.glob("*.in"))
    return {path.stem: Template(path.read_text(encoding="utf-8")).substitute(values) for path in paths}
