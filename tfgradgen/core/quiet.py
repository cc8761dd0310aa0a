"""Import of TensorFlow without its start-up messages, which a user cannot act on."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Lines that TensorFlow's C++ code writes at start: log lines, which name their source file, and lines that continue one.
_NOTE = re.compile(rb"\.cc:\d+\] |absl::InitializeLog|^To enable the following instructions: ")


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Collect stderr during the block, then write it without TensorFlow's notes, or in full after an exception."""
    try:
        held_file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError):  # no temporary folder or no stderr
        yield
        return
    is_whole = True
    with held_file as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
            is_whole = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            lines = held.readlines()
            os.write(2, b"".join(line for line in lines if is_whole or not _NOTE.search(line)))


def quiet_matplotlib() -> None:
    """Silence Matplotlib's warning about a cache folder that cannot be written; it falls back to a temporary one."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Import TensorFlow and TFP if they are not loaded yet. Devices can still be configured afterwards."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_stderr():
        import tensorflow as tf
        import tensorflow_probability  # noqa: F401
    tf.get_logger().setLevel(logging.ERROR)


def start_tensorflow() -> None:
    """Import TensorFlow and start its runtime with full float32 precision: TF32 makes the Metropolis test on a GPU inexact."""
    import_tensorflow()
    with _held_stderr():  # the runtime writes notes too
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.config.list_physical_devices()
        tf.constant(0)
