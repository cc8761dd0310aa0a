"""Commands in processes of their own: forks of one that has imported TensorFlow, because importing takes most of their time."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# TensorFlow is imported, but not started: a process of several threads must not be forked.
PARENT = """
import json, os, signal, sys
from tfgradgen.core.quiet import import_tensorflow, start_tensorflow
import_tensorflow()
import tfgradgen.cli.sample
from tfgradgen.cli.commands import main
for line in sys.stdin:
    code, command, folder = json.loads(line)
    assert not os.path.exists("/proc/self/task") or len(os.listdir("/proc/self/task")) == 1, "there are threads"
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        start_tensorflow()
        exec(code)
        main(command)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """The process that forks. It ends with the block of `with`. Its hashes of text differ from those of this process."""

    def __enter__(self) -> "Forks":
        self._said = tempfile.TemporaryFile("w+")
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONHASHSEED": "1"},
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._parent.communicate()  # closes stdin, which ends it
        self._said.close()

    def run(self, command: Sequence[str], code: str, folder: Path) -> int:
        """Run `command` in `folder` in a fork, after `code`; return its exit status, or minus the signal that ended it."""
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps([code, [*command], str(folder)]) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    @property
    def said(self) -> str:
        """What the processes wrote."""
        self._said.seek(0)
        return self._said.read()
