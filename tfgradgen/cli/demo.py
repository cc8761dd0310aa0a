"""The `demo` command: a local page that draws images, while the chains run."""

import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path

from tfgradgen.cli.demo_options import DemoOptions
from tfgradgen.cli.serve_options import not_bound
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import complain, give, note, note_traceback, one_line

GRACE_SECONDS = 1.0  # how long the server waits at its end for a chunk that is being computed
ENDED = "the demo has ended"


def bind(options: DemoOptions) -> socket.socket:
    """Return a socket that listens on the requested address.

    Raises:
      UserError: The address is taken, not of this machine, or not allowed.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(options.host).version == 6 else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        raise not_bound(options.host, options.port, error) from error


def url_of(listener: socket.socket) -> str:
    """Return the address of the page."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if listener.family == socket.AF_INET6 else f"http://{host}:{port}/"


def run_demo(options: DemoOptions, listener: socket.socket) -> None:
    """Load the models and serve the page until a signal ends the process.

    Raises:
      UserError: A model does not load.
      Stopped: A signal ended it.
    """
    folder = Path(tempfile.mkdtemp(prefix="tfgradgen-demo-"))  # only this user can read it
    try:
        _serve(options, listener, folder)
    finally:
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)


def _serve(options: DemoOptions, listener: socket.socket, folder: Path) -> None:
    from tfgradgen.cli.load import load_models
    from tfgradgen.demo.requests import Limits
    from tfgradgen.demo.server import DemoServer
    from tfgradgen.demo.work import Studio

    try:
        loaded = load_models(options.models)
        limits = Limits(max_chains=options.max_chains, max_draws=options.max_draws)
        studio = Studio(loaded, options.models.to_dict(), limits, folder, report)
        names = [label.name for label in loaded.classifiers[0].labels if not label.background]
        is_loopback = ipaddress.ip_address(options.host).is_loopback
        server = DemoServer(listener, is_loopback, studio, names)
        server.start()
    except KeyboardInterrupt as interrupt:
        raise stopped(interrupt, ENDED, can_resume=False) from None
    try:
        give(f"listening {url_of(listener)} (open it in a browser); Ctrl-C ends it")
        if not is_loopback:
            note("warning  anyone on this network can use this page, without a password")
        if options.opens:
            with suppress(webbrowser.Error, OSError):
                webbrowser.open(url_of(listener))
        server.wait()
    except KeyboardInterrupt as interrupt:
        end = stopped(interrupt, ENDED, can_resume=False)
        if not server.close(GRACE_SECONDS):  # TensorFlow computes, which Python cannot interrupt
            shutil.rmtree(folder, ignore_errors=True)
            complain(f"tfgradgen: {'interrupted' if end.signum == 2 else 'ended by a signal'}; {ENDED}.")
            sys.stdout.flush()
            os._exit(128 + end.signum)
        raise end from None


def report(error: BaseException) -> None:
    """Print a line about a job that failed for no fault of the request, without repeating the request."""
    complain(f"warning  a job failed: {one_line(error)}")
    note_traceback(error)
