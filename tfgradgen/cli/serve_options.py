"""The flags of `serve`, parsed and checked, and the export that they name."""

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tfgradgen.cli.beside import CONFIG, MODEL_FILE, RECORD
from tfgradgen.cli.flags import check_flags, flags_of, read_flags
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.parsing import parsing, read_json, read_text, reason, whole_number
from tfgradgen.core.settings import path, switch, text, whole
from tfgradgen.core.text import value_text

_NAME = re.compile(r'^\s*name: "([^"/:\\]{1,255})"', re.MULTILINE)  # in models.config
# Errors of an address that this machine does not have, such as one of IPv6 where that is off, or without its interface.
_OF_HOST = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV)
_VERSION = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `serve`. Fields without a line here are described by their help.

    Attributes:
      version: None for the highest.
    """

    export: Path = path(shown="BASE", help="folder that `export` wrote, or one version in it")
    version: int | None = whole(
        None, low=1, high=2**62, shown="N", states_bounds=True, help="version to serve; by default the highest"
    )
    host: str = text(
        "127.0.0.1",
        help="IP address to listen on. By default only this machine can ask; 0.0.0.0 lets the network ask, without a password",
    )
    port: int = whole(8501, low=0, high=65535, help="port to listen on; 0 for any free one")
    allow_unknown_ops: bool = switch(help="load an export with operations that exports of this version lack")


class Export(NamedTuple):
    """An export on disk.

    Attributes:
      folder: Folder of the version.
      base: The folder that holds its versions.
      name: Name of the model in URLs.
      version: Its number.
      label: A label that can be requested; '' if export.json does not say.
      max_batch_size: The largest batch that it was made for; 1 if export.json does not say.
    """

    folder: Path
    base: Path
    name: str
    version: int
    label: str
    max_batch_size: int


def parse_serve(flags: dict[str, Any]) -> ServeOptions:
    """Return the options that the flags of `serve` give.

    Raises:
      UserError: A flag is invalid; the first such flag is named.
    """
    check_flags("serve", flags, flags_of(ServeOptions))
    if flags.get("export") is None:
        raise fail("export", "a folder that `export` wrote", "none", "give it, for example: --export=out/served")
    own = read_flags(ServeOptions, flags)
    own["host"] = parse_address(own["host"])
    return ServeOptions(**own)


def parse_address(host: Any) -> str:
    """Return an IP address as text; localhost is 127.0.0.1.

    Raises:
      UserError: It is not an address.
    """
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else str(host).strip("[]")))
    except ValueError as error:
        raise fail("host", "an IP address", value_text(host), "give --host=127.0.0.1, for example") from error


def not_bound(host: str, port: int, error: OSError) -> UserError:
    """Return the error of an address on which no socket can listen: the port is taken or not allowed, or the host is wrong."""
    if isinstance(error, socket.gaierror) or error.errno in _OF_HOST:
        return fail("host", "an address of this machine", f"{host}: {reason(error)}", "give --host=127.0.0.1, for example")
    return fail("port", f"a free port at {host}", f"{port}: {reason(error)}", "give another --port, or --port=0")


def find_export(options: ServeOptions) -> Export:
    """Return the export to serve.

    Raises:
      UserError: There is none, or not in the requested version.
    """
    base = options.export.absolute()
    remedy = "give a folder that `export` wrote"
    with parsing("export", f"a folder with versions of a model at {options.export}", remedy):
        if (base / MODEL_FILE).is_file() and _VERSION.fullmatch(base.name):
            base, found = base.parent, [int(base.name)]
        else:
            names = [path.name for path in base.iterdir() if (path / MODEL_FILE).is_file()]
            found = sorted(int(name) for name in names if _VERSION.fullmatch(name) and not name.startswith("0"))
    if not found:
        raise fail("export", "a folder with versions of a model", f"{options.export}, which has none", remedy)
    if options.version is not None and options.version not in found:
        known = ", ".join(map(str, found[-12:]))
        raise fail("version", f"one that is in {options.export}: {known}", options.version, "leave it out for the highest")
    version = options.version or found[-1]
    label, most = _of_record(base / str(version) / RECORD)
    return Export(base / str(version), base, _name(base), version, label, most)


def _name(base: Path) -> str:
    """Return the name of the model, as a server reads it from models.config; without that file the folder's."""
    try:
        found = _NAME.search(read_text(base / CONFIG, 1 << 16))
    except (OSError, ValueError):
        found = None
    return found[1] if found else base.name


def _of_record(file: Path) -> tuple[str, int]:
    """Return a label and the largest batch size that export.json names; '' and 1 if it does not say."""
    try:
        with parsing("export", RECORD, "export again"):
            record = read_json(file)
            label, asked = record["labels"][0]["name"], record["arguments"]
            most = max(map(whole_number, [*asked["batch_sizes"], asked.get("batched") or 1]))
            return (label, most) if isinstance(label, str) and most <= 1024 else ("", 1)
    except UserError:
        return "", 1
