"""Writing a `Serving` as a SavedModel with warm-up requests."""

import errno
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from tfgradgen.core.text import printable, shortened
from tfgradgen.serving.module import Serving
from tfgradgen.serving.warmup import requests, write_warmup


def write_saved_model(serving: Serving, folder: Path, model: str, batch_sizes: Sequence[int], xla: bool) -> list[str]:
    """Write `serving` and its warm-up requests.

    Args:
      serving: The module.
      folder: An existing folder.
      model: Name of the model on the server.
      batch_sizes: Batch sizes of the warm-up requests, those to which the server pads.
      xla: Whether to add a signature that is compiled by XLA.

    Returns:
      The names of the signatures.

    Raises:
      OSError: The folder cannot be written.
    """
    signatures = serving.signatures(xla)
    try:
        tf.saved_model.save(serving, str(folder), signatures=signatures)
        write_warmup(folder, model, requests(signatures, serving.names, batch_sizes))
    except tf.errors.OpError as error:  # a full disk, for example: ResourceExhausted or Unknown
        raise OSError(errno.EIO, shortened(printable(" ".join(error.message.split()), None), 80)) from error
    return list(signatures)
