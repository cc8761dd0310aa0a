"""Resolution of handles (a folder, an archive, TF-Hub or Kaggle Models) to a local SavedModel folder."""

import contextlib
import hashlib
import http.client
import logging
import os
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.text import value_text
from tfgradgen.models.loading.archives import unpack
from tfgradgen.models.loading.caches import cache_folder, check_private, home_caches, make_private
from tfgradgen.models.loading.download import STALL_SECONDS, downloaded
from tfgradgen.models.loading.wrong_files import (
    check_whole,
    file_error,
    half_cached,
    is_lfs_pointer,
    missing_error,
    model_folder,
)

_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_EXPECTED = "a SavedModel folder, its .tar.gz, a https://tfhub.dev/... URL or Kaggle's owner/model/framework/variation/version"
_KAGGLE = re.compile(r"\w[\w.-]*/\w[\w.-]*/tensorflow[12]/\w[\w.-]*(/\d+)?", re.IGNORECASE)
_CONNECT_SECONDS = 3.0
FETCH_ERRORS = (OSError, ValueError, EOFError, http.client.HTTPException)  # raised by urllib and `download`


def resolve_handle(handle: str) -> Path:
    """Return the folder with saved_model.pb that `handle` stands for; download it if it is not cached yet.

    A local path takes precedence over a Kaggle handle. A cache that other users can write to is refused.

    Args:
      handle: One of
        a SavedModel folder;
        a .tar.gz, .tgz or .tar file with the model at its top or in its only folder, which is unpacked once to the cache
        folder $TFGRADGEN_CACHE_DIR (default $XDG_CACHE_HOME/tfgradgen or ~/.cache/tfgradgen);
        a TF-Hub URL, which is downloaded and unpacked once to $TFHUB_CACHE_DIR/sha1(URL)/ (default tfhub_modules/ in the
        cache folder);
        a Kaggle Models handle or page, which kagglehub caches in $KAGGLEHUB_CACHE.

    Raises:
      UserError: The model does not exist, or it is not cached and cannot be downloaded. The error then names the folder for a
        manual copy. Without a network this takes a few seconds.
    """
    check_handle(handle)
    path = Path(os.path.expanduser(handle))
    if os.path.isdir(path):  # unlike Path.is_dir, this does not raise for an invalid path
        return model_folder(path, handle)
    if os.path.isfile(path):
        return _from_archive(path)
    if handle.startswith(("https://", "http://")):
        kaggle = _kaggle_handle_of(handle)
        return _from_hub(handle) if kaggle is None else _from_kaggle(kaggle)
    return _from_kaggle(handle.rstrip("/"))


def check_handle(handle: str) -> None:
    """Raise `UserError` if `handle` cannot be a model, without downloading or unpacking anything."""
    path = Path(os.path.expanduser(handle))
    if os.path.isdir(path):
        model_folder(path, handle)
    elif os.path.isfile(path):
        if not path.name.lower().endswith(_ARCHIVES) or is_lfs_pointer(path):
            raise file_error(path, handle, _EXPECTED)
    elif handle.startswith(("https://", "http://")):
        _kaggle_handle_of(handle)
    elif not _KAGGLE.fullmatch(handle.rstrip("/")):
        raise missing_error(path, handle, _EXPECTED)


def version_of(folder: Path, handle: str) -> str:
    """Return the name of the numbered `folder` if `handle` is its parent folder, otherwise ''."""
    above = os.path.realpath(os.path.expanduser(handle))
    return folder.name if os.path.isdir(above) and os.path.realpath(folder.parent) == above else ""


def _model_in(folder: Path, where: str) -> Path:
    if (folder / "saved_model.pb").is_file():
        check_whole(folder, where)
        return folder
    inner = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if len(inner) == 1 and (inner[0] / "saved_model.pb").is_file():
        return inner[0]
    raise fail(where, "saved_model.pb at its top or in its only folder", "none there", "give a model in SavedModel format")


def _from_archive(archive: Path) -> Path:
    try:
        digest = _sha256(archive)
    except OSError as error:
        raise fail(f"archive {archive}", "a readable file", error.strerror, "check the file") from error
    folder = cache_folder() / "archives" / digest
    for cache in (folder.parent, folder):
        check_private(cache, "TFGRADGEN_CACHE_DIR")
    if not folder.is_dir():
        unpack(archive, folder, sha256=digest)
    try:
        return _model_in(folder, f"archive {archive}")
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)  # no later run can use it
        raise


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _from_hub(handle: str) -> Path:
    """Return the model at a TF-Hub URL. The cache depends on the spelling of the URL, so both usual spellings are tried."""
    root = Path(os.getenv("TFHUB_CACHE_DIR") or cache_folder() / "tfhub_modules")
    usual = re.sub(r"^http://tfhub\.dev/", "https://tfhub.dev/", handle.rstrip("/"))
    spellings = {url: root / hashlib.sha1(url.encode()).hexdigest() for url in (handle, usual)}
    url = next((url for url, folder in spellings.items() if _is_filled(folder)), usual)
    folder = spellings[url]
    remedy = f"put the model's files into {folder} (TFHUB_CACHE_DIR sets the folder above it) or give a local folder"
    for cache in (root, folder):
        check_private(cache, "TFHUB_CACHE_DIR")
    _check_emptied(folder, handle)
    if not _is_filled(folder):
        with _fetching(f"model {handle}", remedy, *FETCH_ERRORS):
            _check_network(url)
            _fetch(url, folder)
    return _model_in(folder, f"model {handle} in {folder}")


def _fetch(url: str, folder: Path) -> None:
    """Download and unpack the model at `url` to the new `folder`, atomically."""
    make_private(folder.parent)
    with downloaded(url, folder.parent) as archive:
        try:
            unpack(archive, folder)
        except UserError as error:
            if error.__cause__ is None:  # the folder cannot be written
                raise
            raise ValueError(f"an invalid module: {error.__cause__}") from error
    try:
        _model_in(folder, "it")
    except UserError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(f"an invalid module: {error}") from error


def _check_emptied(folder: Path, handle: str) -> None:
    emptied = half_cached(folder, f"model {handle}")
    if emptied:
        raise emptied


def _is_filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _kaggle_handle_of(url: str) -> str | None:
    """Return the handle in the URL of a Kaggle Models page, in either of its forms; None for other URLs."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise fail(f"model {url}", "a URL", error, "check the URL") from error
    if parts.hostname not in ("www.kaggle.com", "kaggle.com") or not parts.path.startswith("/models/"):
        return None
    named = [part for part in parts.path.split("/")[2:] if part not in ("", "frameworks", "variations", "versions")]
    handle = "/".join(named)
    if not _KAGGLE.fullmatch(handle):
        expected = "the page of one variation, https://www.kaggle.com/models/owner/model/TensorFlow2/variation/version"
        raise fail(f"model {url}", expected, value_text(handle), "open the page of the variation and copy its URL")
    return handle


def _from_kaggle(handle: str) -> Path:
    owner, model, framework, variation, *version = handle.split("/")
    root = Path(os.getenv("KAGGLEHUB_CACHE") or home_caches("KAGGLEHUB_CACHE") / "kagglehub")
    folder = root / "models" / owner / model / framework / variation / (version[0] if version else "VERSION")
    marker = folder.with_name(f"{folder.name}.complete")
    where = "KAGGLEHUB_CACHE sets the folder above models"
    remedy = f"put the model's files into {folder} and an empty file {marker.name} next to it ({where})"
    if not version:
        remedy += ", and give that version in the handle"
    for cache in (root, folder):
        check_private(cache, "KAGGLEHUB_CACHE")
    if marker.exists():
        _check_emptied(folder, handle)
    with _fetching(f"model {handle}", f"{remedy}, or give a local folder", Exception):  # kagglehub has its own errors
        try:
            import kagglehub
        except ImportError as error:
            raise fail(f"model {handle}", "the package kagglehub", error, "pip install 'tfgradgen[kaggle]'") from error
        if not (version and folder.is_dir() and marker.exists()):
            _check_network("https://www.kaggle.com")
        downloaded_to = Path(kagglehub.model_download(handle))
    return _model_in(downloaded_to, f"model {handle} in {folder}")


def _check_network(url: str) -> None:
    """Raise `OSError` within seconds if the host of `url` is unreachable; the libraries would wait for minutes."""
    parts = urlsplit(url)
    if not urllib.request.getproxies():  # with a proxy, the host need not be reachable directly
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_SECONDS).close()


@contextlib.contextmanager
def _fetching(where: str, remedy: str, *kinds: type[Exception]) -> Iterator[None]:
    """Silence a download library, and turn errors of these `kinds` into one line that ends in `remedy`."""
    stall, disabled = socket.getdefaulttimeout(), logging.root.manager.disable
    socket.setdefaulttimeout(STALL_SECONDS)
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except kinds as error:
        reason = getattr(error, "reason", None) if isinstance(error, urllib.error.URLError) else None
        code = ""
        if isinstance(error, urllib.error.HTTPError):
            code = f"HTTP {error.code} "
            error.close()
        got = code + (str(reason or error) or type(error).__name__)
        raise fail(where, "a model that can be downloaded", " ".join(got.split())[:200], remedy) from error
    finally:
        socket.setdefaulttimeout(stall)
        logging.disable(disabled)
