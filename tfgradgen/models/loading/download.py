"""Bounded download of a model's archive from a URL."""

import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

FORMAT = urlencode({"tf-hub-format": "compressed"})  # makes TF-Hub send a tar archive
MAX_BYTES = 8 << 30
MAX_SECONDS = 2 * 3600.0
STALL_SECONDS = 30.0
MAX_REDIRECTS = 5
_BLOCK = 1 << 16


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):
            fp.close()
            raise urllib.error.URLError(f"a redirect to {newurl}, which is not an HTTP URL")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def downloaded(url: str, folder: Path, most: int = MAX_BYTES) -> Iterator[Path]:
    """Download the archive of the model at `url` to a temporary file in `folder`, which the block may read.

    Raises:
      OSError: The server cannot be reached, or answers with an error.
      ValueError: The archive has more than `most` bytes, or fewer than announced.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    parts = urlsplit(url)
    asked = parts._replace(query="&".join(filter(None, [parts.query, FORMAT])), fragment="").geturl()
    descriptor, name = tempfile.mkstemp(prefix=".download-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file, opener.open(asked, timeout=STALL_SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            _copy(response, file, most, int(length) if length.isdecimal() else None)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _copy(response: Any, file: Any, most: int, length: int | None) -> None:
    if length is not None and length > most:
        raise ValueError(f"an archive of {length:,} bytes, more than {most:,}")
    count, end = 0, time.monotonic() + MAX_SECONDS
    while block := response.read1(_BLOCK):
        count += len(block)
        if count > most:
            raise ValueError(f"an archive of more than {most:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError(f"not finished after {MAX_SECONDS / 3600:.0f} hours")
        file.write(block)
    if length is not None and count < length:
        raise ValueError(f"only {count:,} of {length:,} bytes")
