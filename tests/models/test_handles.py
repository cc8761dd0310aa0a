"""Handles of models: each form finds its folder, offline if a copy exists, or fails with one helpful line."""

import contextlib
import functools
import hashlib
import importlib.util
import io
import logging
import os
import socket
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.support import toy
from tests.support.archives import archive_of
from tfgradgen.core.checks import UserError
from tfgradgen.models.generator import load_generator
from tfgradgen.models.loading.handles import resolve_handle

BIGBIGAN = "https://tfhub.dev/deepmind/bigbigan-resnet50/1"
KAGGLE = "deepmind/bigbigan/TensorFlow1/resnet50/1"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TFGRADGEN_CACHE_DIR", "TFHUB_CACHE_DIR", "KAGGLEHUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Make every connection time out at once; return the addresses that were tried."""
    tried = []

    def refuse(address: tuple[str, int], timeout: float) -> None:
        assert timeout <= 5
        tried.append(address)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    return tried


def place(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")
    return folder


@functools.cache
def bomb() -> bytes:
    """Return a model of 256 MiB of zeros, packed to 260 kB."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo("saved_model.pb")
        member.size = 256 << 20
        tar.addfile(member, Zeros())
    return stream.getvalue()


class Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def linked() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        member = tarfile.TarInfo("x")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    return stream.getvalue()


def refused(handle: str) -> str:
    """Return the one line with which `handle` is refused."""
    with pytest.raises(UserError) as error:
        resolve_handle(handle)
    (line,) = str(error.value).splitlines()
    return line


def in_hub_cache(root: Path, url: str) -> Path:
    return root / "TFHUB_CACHE_DIR" / hashlib.sha1(url.encode()).hexdigest()


def test_a_local_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_handle(str(folder)) == resolve_handle("~/model") == folder
    assert resolve_handle("model") == Path("model")
    place(tmp_path / KAGGLE)
    assert resolve_handle(KAGGLE) == Path(KAGGLE), "what is on disk comes before Kaggle"


def test_a_path_that_is_not_a_model_is_reported(tmp_path: Path) -> None:
    forms = "expected a SavedModel folder, its .tar.gz, a https://tfhub.dev/... URL or Kaggle's owner/model/framework/variation"
    for handle in (
        "none",
        "/none",
        "a/b/c/d",
        "google/gemma/pyTorch/2b/1",
        "gs://bucket/model",
        "x" * 5000,
        "a\0b",
        "~nobody-/m",
    ):
        assert forms in refused(handle)
    assert "no such folder" in refused(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "a folder with saved_model.pb, got an empty folder" in refused(str(tmp_path / "empty"))
    place(tmp_path / "model")
    assert "the folder of a SavedModel, got its file saved_model.pb; give " in refused(
        str(tmp_path / "model" / "saved_model.pb")
    )


@pytest.mark.parametrize(("prefix", "inner"), [("", ""), ("./", ""), ("bigbigan/", "bigbigan")])
def test_an_archive_is_unpacked_once(prefix: str, inner: str, tmp_path: Path) -> None:
    content = archive_of(prefix)
    (tmp_path / "model.tgz").write_bytes(content)
    folder = tmp_path / "TFGRADGEN_CACHE_DIR" / "archives" / hashlib.sha256(content).hexdigest()
    assert resolve_handle("model.tgz") == folder / inner
    assert (folder / inner / "variables" / "variables.index").read_bytes() == b"abc"
    unpacked = folder.stat().st_mtime_ns
    (tmp_path / "model.tgz").rename(tmp_path / "renamed.tar.gz")
    assert resolve_handle("renamed.tar.gz") == folder / inner
    assert folder.stat().st_mtime_ns == unpacked


def test_the_cache_of_archives_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.tar.gz").write_bytes(archive_of())
    monkeypatch.delenv("TFGRADGEN_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert resolve_handle("model.tar.gz").parent == tmp_path / ".cache" / "tfgradgen" / "archives"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert resolve_handle("model.tar.gz").parent == tmp_path / "xdg" / "tfgradgen" / "archives"


def test_archives_without_a_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.tar.gz").write_bytes(archive_of("a/b/"))
    assert "archive deep.tar.gz: expected saved_model.pb at its top or in its only folder" in refused("deep.tar.gz")
    (tmp_path / "cut.tar.gz").write_bytes(archive_of()[:50])
    assert "archive cut.tar.gz: expected a complete tar archive" in refused("cut.tar.gz")
    assert not list((tmp_path / "TFGRADGEN_CACHE_DIR" / "archives").iterdir())


def test_a_placed_copy_of_a_tfhub_model_loads_offline(
    tmp_path: Path, no_network: list[tuple[str, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = in_hub_cache(tmp_path, BIGBIGAN)
    toy.save(folder, lambda z: tf.reshape(z, [-1, 2, 2, 1]), [None, 4])
    for spelling in (BIGBIGAN, BIGBIGAN + "/", BIGBIGAN.replace("https", "http")):
        assert resolve_handle(spelling) == folder
    generator = load_generator(resolve_handle(BIGBIGAN))
    np.testing.assert_allclose(generator(tf.ones([1, 4])), tf.ones([1, 2, 2, 1]))
    exact = place(in_hub_cache(tmp_path, BIGBIGAN + "/"))
    assert resolve_handle(BIGBIGAN + "/") == exact, "the spelling given comes first"
    assert resolve_handle(BIGBIGAN) == folder
    assert not no_network
    assert capfd.readouterr() == ("", "")


def test_without_a_network_the_line_names_the_place(
    tmp_path: Path, no_network: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(BIGBIGAN)
    assert f"model {BIGBIGAN}: expected a model that can be downloaded, got timed out; put the model's files into " in line
    assert f"{in_hub_cache(tmp_path, BIGBIGAN)} (TFHUB_CACHE_DIR sets the folder above it)" in line
    assert no_network == [("tfhub.dev", 443)]
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    own = tmp_path / "TFGRADGEN_CACHE_DIR" / "tfhub_modules"
    assert f"{own / hashlib.sha1(BIGBIGAN.encode()).hexdigest()} " in refused(BIGBIGAN), "not in a folder that all share"


def test_the_cache_folders_are_those_of_the_library(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorflow_hub import compressed_module_resolver as library

    assert library._module_dir(BIGBIGAN) == str(in_hub_cache(tmp_path, BIGBIGAN))


LENGTHS = {"short": 10_000, "huge": 1 << 40}  # of replies that promise more bytes than they have


@pytest.fixture
def server() -> Iterator[str]:
    """A server on this machine whose reply is named by the path: a model, a model within a folder, a page, or an error."""
    answers = {"model": archive_of(), "inner": archive_of("a/"), "page": b"<html></html>"}
    answers |= {"short": archive_of(), "huge": archive_of(), "empty": archive_of("a/b/"), "bomb": bomb(), "link": linked()}
    answers["cut"] = archive_of(content=Random(0).randbytes(100_000))[:150_000]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind = self.path.split("/")[1]
            if kind.isdecimal():
                self.send_error(int(kind))
                return
            assert self.path.endswith("?tf-hub-format=compressed")
            if kind == "to":  # a redirect; its target follows
                self.send_response(302)
                target = urllib.parse.unquote(self.path.split("/")[2].split("?")[0])
                self.send_header("Location", self.path if target == "loop" else target)
                self.end_headers()
                return
            self.send_response(200)
            if kind in LENGTHS:
                self.send_header("Content-Length", str(LENGTHS[kind]))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(answers[kind])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_url_is_fetched_once(server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = in_hub_cache(tmp_path, f"{server}/model/1")
    assert resolve_handle(f"{server}/model/1") == folder
    assert (folder / "saved_model.pb").read_bytes() == b"abc"
    (folder / "saved_model.pb").write_bytes(b"kept")
    assert resolve_handle(f"{server}/model/1/") == folder
    assert (folder / "saved_model.pb").read_bytes() == b"kept"
    assert resolve_handle(f"{server}/inner/1").name == "a"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("403/1", "got HTTP 403 Forbidden"),
        ("404/1", "got HTTP 404 Not Found"),
        ("cut/1", "an invalid module"),
        ("page/1", "an invalid module"),
        ("empty/1", "an invalid module"),
        ("bomb/1", "an invalid module: "),
        ("link/1", "an invalid module"),
        ("short/1", "of 10,000 bytes"),
        ("huge/1", "an archive of 1,099,511,627,776 bytes, more than "),
        ("to/file%3A%2F%2F%2Fetc%2Fpasswd", "got HTTP 302"),
        ("to/ftp%3A%2F%2F127.0.0.1%2Fmodel", "which is not an HTTP URL"),
        ("to/loop", "got HTTP 302"),
    ],
)
def test_answers_that_are_not_a_model_are_one_line(server: str, path: str, text: str, tmp_path: Path) -> None:
    line = refused(f"{server}/{path}")
    assert line.startswith(f"model {server}/{path}: expected a model that can be downloaded, got ")
    assert text in line
    assert f"put the model's files into {in_hub_cache(tmp_path, f'{server}/{path}')} " in line
    assert not list((tmp_path / "TFHUB_CACHE_DIR").rglob("*"))


def test_a_closed_door_is_found_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        start = time.monotonic()
        assert "refused" in refused(f"http://127.0.0.1:{taken.getsockname()[1]}/model/1")
        assert time.monotonic() - start < 5


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert refused(KAGGLE).endswith("pip install 'tfgradgen[kaggle]'.")


def planted(folder: Path) -> Path:
    """Return a complete copy, for the cache."""
    place(folder)
    folder.with_name(f"{folder.name}.complete").touch()
    return folder


def as_of(owner: int, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `os.stat` of a system on which every file belongs to the user `owner`."""

    def found(*args: Any, **kwargs: Any) -> os.stat_result:
        entries = list(fn(*args, **kwargs))
        entries[4] = owner
        return os.stat_result(entries)

    return found


def in_kaggle_cache(root: Path, handle: str = KAGGLE) -> Path:
    return root / "KAGGLEHUB_CACHE" / "models" / handle


@pytest.fixture
def kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the library if it is installed, otherwise an imitation of its cache without a network."""

    def model_download(handle: str) -> str:
        folder = in_kaggle_cache(tmp_path, handle)
        if not folder.with_name(f"{folder.name}.complete").exists():
            raise ConnectionError("no network\n\nat all")
        return str(folder)

    if importlib.util.find_spec("kagglehub") is None:
        monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=model_download))


@pytest.mark.usefixtures("kagglehub")
def test_a_placed_copy_of_a_kaggle_model_loads_offline(
    tmp_path: Path, no_network: list[tuple[str, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = place(in_kaggle_cache(tmp_path))
    folder.with_name("1.complete").touch()
    assert resolve_handle(KAGGLE) == folder
    assert not no_network
    assert capfd.readouterr() == ("", "")


def test_pages_of_kaggle_stand_for_their_handles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfgradgen.models.loading.handles._check_network", lambda url: None)
    library = SimpleNamespace(model_download=lambda handle: str(tmp_path / handle.replace("/", "-")))
    monkeypatch.setitem(sys.modules, "kagglehub", library)
    first, latest = place(tmp_path / KAGGLE.replace("/", "-")), place(tmp_path / "deepmind-bigbigan-tensorFlow1-resnet50")
    page = "https://www.kaggle.com/models/deepmind/bigbigan"
    for spelling in (
        KAGGLE + "/",
        f"{page}/TensorFlow1/resnet50/1",
        f"{page}/TensorFlow1/resnet50/1?select=variables#files",
        f"{page.replace('www.', '')}/frameworks/TensorFlow1/variations/resnet50/versions/1/",
    ):
        assert resolve_handle(spelling) == first
    assert resolve_handle(f"{page}/tensorFlow1/resnet50") == latest
    for other in ("deepmind/bigbigan", "google/gemma/pyTorch/2b/1", "a/../tensorFlow2/b", ""):
        assert "expected the page of one variation" in refused(f"https://www.kaggle.com/models/{other}")


def test_without_a_network_the_line_names_the_place_in_kaggles_cache(
    kagglehub: None, tmp_path: Path, no_network: list[tuple[str, int]]
) -> None:
    line = refused(KAGGLE)
    assert f"model {KAGGLE}: expected a model that can be downloaded, got timed out; " in line
    assert f"put the model's files into {in_kaggle_cache(tmp_path)} and an empty file 1.complete next to it" in line
    assert "(KAGGLEHUB_CACHE sets the folder above models), or give a local folder." in line
    place(in_kaggle_cache(tmp_path))
    assert refused(KAGGLE) == line, "without its mark a copy may be half of one"
    assert "/VERSION and an empty file VERSION.complete next to it" in refused(KAGGLE.removesuffix("/1"))
    assert "and give that version in the handle" in refused(KAGGLE.removesuffix("/1"))
    assert no_network == [("www.kaggle.com", 443)] * 4


def test_what_kaggle_answers_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def model_download(handle: str) -> str:
        assert handle == KAGGLE
        print("Warning: an outdated version")
        logging.getLogger("kagglehub").warning("downloading")
        assert socket.getdefaulttimeout()
        raise RuntimeError("403 Client Error.\n\nYou don't have permission")

    monkeypatch.setattr("tfgradgen.models.loading.handles._check_network", lambda url: None)
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=model_download))
    assert "got 403 Client Error. You don't have permission; put the model's files into" in refused(KAGGLE)
    assert (capsys.readouterr().out, caplog.records) == ("", [])
    assert (socket.getdefaulttimeout(), logging.root.manager.disable) == (None, 0), "as they were"
    inner = place(tmp_path / "download" / "1").parent
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=lambda handle: str(inner)))
    assert resolve_handle(KAGGLE) == inner / "1"
    place(tmp_path / "download" / "2")
    assert f"model {KAGGLE} in {in_kaggle_cache(tmp_path)}: expected saved_model.pb at its top" in refused(KAGGLE)


def test_a_proxy_is_trusted_to_reach_the_host(no_network: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://127.0.0.1:9"})
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(model_download=lambda handle: "nowhere"))
    assert "expected saved_model.pb at its top" in refused(KAGGLE)
    assert not no_network


def test_the_libraries_are_imported_only_for_their_handles(root: Path) -> None:
    code = (
        "import sys; from tfgradgen.models.loading.handles import resolve_handle; resolve_handle('saved_models/generator');"
        "assert not {'tensorflow', 'tensorflow_hub', 'kagglehub', 'pkg_resources'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_redirects_on_the_web_are_followed(server: str, tmp_path: Path) -> None:
    there = urllib.parse.quote(f"{server}/model/1?tf-hub-format=compressed", "")
    assert (resolve_handle(f"{server}/to/{there}") / "saved_model.pb").read_bytes() == b"abc"


@pytest.mark.parametrize(
    ("variable", "handle", "place"),
    [
        ("TFHUB_CACHE_DIR", BIGBIGAN, ""),
        ("TFHUB_CACHE_DIR", BIGBIGAN, hashlib.sha1(BIGBIGAN.encode()).hexdigest()),
        ("KAGGLEHUB_CACHE", KAGGLE, ""),
        ("KAGGLEHUB_CACHE", KAGGLE, f"models/{KAGGLE}"),
        ("TFGRADGEN_CACHE_DIR", "model.tgz", "archives"),
    ],
)
@pytest.mark.parametrize("how", ["mode", "owner", "link"])
def test_a_cache_that_others_can_write_is_refused(
    variable: str, handle: str, place: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in it may come from someone else."""
    (tmp_path / "model.tgz").write_bytes(archive_of())
    folder = tmp_path / variable / place
    planted(in_hub_cache(tmp_path, BIGBIGAN))
    planted(in_kaggle_cache(tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    if how == "mode":
        folder.chmod(0o777)
    elif how == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
        monkeypatch.setattr(os, "lstat", as_of(4322, os.lstat))
        monkeypatch.setattr(os, "stat", as_of(4322, os.stat))
    else:
        folder.rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").chmod(0o777)
        folder.symlink_to(tmp_path / "elsewhere")
    line = refused(handle)
    expected = "a folder that you own, got one of another user" if how == "owner" else "a folder that only you can write"
    assert f"expected {expected}" in line
    assert f"set {variable} to another folder." in line
