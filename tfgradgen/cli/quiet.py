"""Imports TensorFlow without its start-up notes, which say nothing that a user of the command can act on."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _held_stderr() -> Iterator[None]:
    """Holds back what C++ writes to stderr meanwhile; shows it after all when an exception leaves the block."""
    try:
        held_file = tempfile.TemporaryFile()  # noqa: SIM115  # closed below
    except OSError:  # there is no temporary folder
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with held_file as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quiet_matplotlib() -> None:
    """Keeps Matplotlib from saying at length that the folder of its cache cannot be written: it takes a temporary one."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def start_tensorflow() -> None:
    """Imports TensorFlow and TFP, once, with full float32 precision: TF32 would blur the Metropolis test on GPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_stderr():
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(False)
        tf.config.list_physical_devices()
        tf.constant(0)  # starts the runtime, which has notes of its own
        import tensorflow_probability  # noqa: F401
    tf.get_logger().setLevel(logging.ERROR)
