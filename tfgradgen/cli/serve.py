"""The `serve` command: the REST interface of TensorFlow Serving for an export, without Docker."""

import json
import os
import signal
import sys
import threading
from urllib.parse import quote

from tfgradgen.cli.serve_options import Export, ServeOptions, not_bound
from tfgradgen.cli.system import stopped
from tfgradgen.cli.terminal import complain, give, note, note_traceback
from tfgradgen.core.text import as_text, shell_word
from tfgradgen.serving.http_server import Limits, RestServer

GRACE_SECONDS = 1.0  # how long the server waits at its end for a request that is being computed
ENDED = "the server has ended"
SEED = 7  # of the examples
GRIDS = ("grid", "grid_batched")
GRID = 16  # images of a row of these signatures (serving.module.NUM_COLUMNS ** 2, which imports TensorFlow)


def bind(options: ServeOptions, limits: Limits) -> RestServer:
    """Return a server that listens on the requested address.

    Raises:
      UserError: The address is taken, not of this machine, or not allowed.
    """
    try:
        return RestServer(options.host, options.port, limits)
    except OSError as error:
        raise not_bound(options.host, options.port, error) from error


def limits_of(export: Export) -> Limits:
    """Return the bounds on requests: as many images as the largest batch that the export was made for, and at least a grid."""
    return Limits(max_images=max(export.max_batch_size, GRID), images_per_row=dict.fromkeys(GRIDS, GRID))


def run_serve(options: ServeOptions, export: Export, server: RestServer) -> None:
    """Load `export` and answer requests until a signal ends the process.

    Raises:
      UserError: The export does not load.
      Stopped: A signal ended it.
    """
    from tfgradgen.serving.servable import Servable

    with server:
        try:
            server.model = Servable(export.folder, export.name, export.version, options.allow_unknown_ops)
            server.reply_fn = report
            give("\n".join(listening(export, server)))
            if not server.is_loopback:
                note("warning  anyone on this network can ask this server, without a password")
            server.serve_forever()
        except KeyboardInterrupt as interrupt:
            end = stopped(interrupt, ENDED, can_resume=False)
            if server.turns.is_busy:
                _leave_soon(server, end.signum)
            raise end from None


def listening(export: Export, server: RestServer) -> list[str]:
    """Return the lines that say where the server listens, and how to ask it."""
    url = f"{server.url}/v1/models/{quote(export.name)}"
    request = json.dumps({"instances": [{"label": export.label or "LABEL", "seed": SEED}]})
    lines = [
        f"listening {url} (version {export.version} of {as_text(export.base)}); Ctrl-C ends it",
        f"ask      curl -s -d {shell_word(request)} {shell_word(f'{url}:predict')}",
    ]
    client = export.base / "rest_client.py"
    if client.is_file():
        place = server.url.removeprefix("http://")
        lines.append(f"or       python {shell_word(str(client))} {shell_word(export.label or 'LABEL')} {SEED} {place}")
    return lines


def report(status: int, seconds: float, error: BaseException | None) -> None:
    """Print a line about a reply, without repeating the request, since anyone can send one."""
    if error is None:
        note(f"answered {status} in {seconds:.1f} s")
    else:
        complain(f"warning  a request failed: {as_text(' '.join(str(error).split()), 200)}")
        note_traceback(error)


def _leave_soon(server: RestServer, signum: int) -> None:
    """End the process even while TensorFlow computes, which Python cannot interrupt. Nothing is being written."""
    freed = threading.Event()

    def wait() -> None:
        with server.turns.lock:
            freed.set()

    threading.Thread(target=wait, daemon=True).start()
    if not freed.wait(GRACE_SECONDS):
        name = "interrupted" if signum == signal.SIGINT else f"ended by {signal.Signals(signum).name}"
        complain(f"tfgradgen: {name}; {ENDED}.")
        sys.stdout.flush()
        os._exit(128 + signum)
