"""Writes a `Serving` as a SavedModel with its warm-up requests."""

import errno
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from tfgradgen.core.text import printable, shortened
from tfgradgen.serving.module import Serving
from tfgradgen.serving.warmup import requests, write_warmup


def write_saved_model(serving: Serving, folder: Path, model: str, batch_sizes: Sequence[int], xla: bool) -> list[str]:
    """Writes `serving` into the existing `folder`, and the requests that a server warms up with; returns the signatures' names.

    Args:
      model: the name that the server gives it. batch_sizes: of the warm-up requests, those that the server fills batches up to.
      xla: whether there is a signature that is compiled by XLA.

    Raises:
      OSError: it cannot be written.
    """
    signatures = serving.signatures(xla)
    try:
        tf.saved_model.save(serving, str(folder), signatures=signatures)
        write_warmup(folder, model, requests(signatures, serving.names, batch_sizes))
    except tf.errors.OpError as error:  # what TensorFlow makes of a full disk, by the system as ResourceExhausted, Unknown, ...
        raise OSError(errno.EIO, shortened(printable(" ".join(error.message.split()), None), 80)) from error
    return list(signatures)
