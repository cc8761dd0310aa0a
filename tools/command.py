"""The command lines of the tools: wrong input ends them with one line."""

import sys
from pathlib import Path

import fire

from tfgradgen.core.checks import UserError
from tfgradgen.core.parsing import reason


def run(command):
    """Run `command`, a function or a dict of functions, with the flags of the command line.

    An error of its input, such as a file that is missing, damaged or cannot be written, is one line and exit status 1. Other
    errors are faults of the tool, and keep their traceback.
    """
    try:
        fire.Fire(command)
    except UserError as error:
        raise SystemExit(f"{_name()}: {error}") from None
    except OSError as error:
        raise SystemExit(f"{_name()}: {reason(error)}{f': {error.filename}' if error.filename else ''}") from None


def _name():
    return Path(sys.argv[0]).stem
