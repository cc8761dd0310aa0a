"""Imports TensorFlow without its start-up notes, which say nothing that a user can act on."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Lines that TensorFlow's C++ writes as it starts: a log line names its source, the others belong to such a line.
_NOTE = re.compile(rb"\.cc:\d+\] |absl::InitializeLog|^To enable the following instructions: ")


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Holds back what is written to stderr meanwhile, and then shows what is no note; all of it when an exception leaves the
    block."""
    try:
        held_file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError):  # no temporary folder, or no stderr
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
    """Keeps Matplotlib from saying at length that the folder of its cache cannot be written: it takes a temporary one."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Imports TensorFlow and TFP, if they are not there yet; what they are told about devices can still be changed after."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_stderr():
        import tensorflow as tf
        import tensorflow_probability  # noqa: F401
    tf.get_logger().setLevel(logging.ERROR)


def start_tensorflow() -> None:
    """`import_tensorflow`, and starts its runtime, with full float32 precision: TF32 would blur the Metropolis test on GPU."""
    import_tensorflow()
    with _held_stderr():  # the runtime has notes of its own
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.config.list_physical_devices()
        tf.constant(0)
