"""The flags of `show`, `vary`, `morph` and `film`, parsed and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tfgradgen.cli.flags import Flag, check_flags, flags_of, read_flags
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.settings import choice, path, real, switch, text, whole
from tfgradgen.core.settings import settings_of as declared

MOST = 4095  # the highest number of a chain
SEED = declared(RunConfig)["seed"]
T = TypeVar("T", bound="OfRun")


@dataclass(frozen=True, kw_only=True)
class OfRun:
    """What the four commands share. Fields are described by their help."""

    run: Path | None = path(None, shown="RUN", help="folder of a run of `sample`; the name of the flag may be left out")
    out: Path | None = path(None, shown="PATH", help="what to write; by default a name next to the folder of the run")
    overwrite: bool = switch(help="replace what an earlier command of this name wrote there")
    opens: bool = switch(flag="open", help="open it in a browser at the end")

    @property
    def folder(self) -> Path:
        """The folder of the run.

        Raises:
          UserError: None was given.
        """
        if self.run is None:
            example = "give it, for example: python -m tfgradgen show out/goldfish-mala-0 --chain=3"
            raise fail("run", "the folder of a run", "none", example)
        return self.run

    def target(self, ending: str) -> Path:
        """Return `out`, or the folder of the run with `ending` after its name."""
        folder = self.folder.absolute() if self.folder.name in ("", "..") else self.folder
        return self.out or folder.with_name(f"{folder.name}{ending}")


@dataclass(frozen=True, kw_only=True)
class WithModels(OfRun):
    """The models of the run, for the commands that need them."""

    generator: str | None = text(None, shown="MODEL", help="where the run's generator is now; by default where it was")
    classifier: str | None = text(None, shown="MODEL", help="likewise its classifier; several as A,B")
    discriminator: str | None = text(None, shown="MODEL", help="likewise its discriminator")
    allow_unknown_ops: bool = switch(
        help="load models with operations that image models do not need. Such a model can read and write files"
    )

    @property
    def places(self) -> dict[str, Any]:
        """The arguments of `load_posterior`."""
        return {name: getattr(self, name) for name in ("generator", "classifier", "discriminator", "allow_unknown_ops")}


@dataclass(frozen=True, kw_only=True)
class ShowOptions(OfRun):
    """The options of `show`."""

    chain: int | None = whole(
        None, low=0, high=MOST, shown="N", help="number of the chain, from 0, as below the images of grid.png"
    )
    scale: int = whole(8, low=1, high=64, help="factor by which the image is enlarged; 1 writes it as it is")


@dataclass(frozen=True, kw_only=True)
class VaryOptions(WithModels):
    """The options of `vary`."""

    chain: int | None = whole(
        None, low=0, high=MOST, shown="N", help="number of the chain, from 0, as below the images of grid.png"
    )
    amount: float = real(
        0.3, help="how far the images may go from that one: above 0; at 1 only the class is left", states_bounds=True
    )
    num_images: int = whole(16, low=1, high=4096, help="number of images")
    num_steps: int = whole(16, low=1, high=10_000, help="steps to each image; more of them are smaller, and more are accepted")
    seed: int = whole(0, low=0, high=SEED.high, help="seed of all random numbers")


@dataclass(frozen=True, kw_only=True)
class FilmFlags(WithModels):
    """The options of `morph` and `film` about the film."""

    scale: int | None = whole(
        None, low=1, high=64, shown="N", help="factor by which images are enlarged; by default to about 256 pixels"
    )
    fps: float = real(12.0, help="frames per second, at most 50", states_bounds=True)


@dataclass(frozen=True, kw_only=True)
class MorphOptions(FilmFlags):
    """The options of `morph`."""

    first: int | None = whole(None, low=0, high=MOST, shown="N", help="number of the chain where the path begins")
    last: int | None = whole(None, low=0, high=MOST, shown="N", help="number of the chain where it ends")
    frames: int = whole(48, low=2, high=2000, help="number of images, both ends included")
    num_steps: int = whole(
        16, low=0, high=1000, help="most gradients by which each image between the two is moved to the class; 0 moves none"
    )


@dataclass(frozen=True, kw_only=True)
class FilmOptions(FilmFlags):
    """The options of `film`."""

    chain: int | None = whole(
        None, low=0, high=MOST, shown="N", help="number of the chain, from 0, as below the images of grid.png"
    )
    frames: int = whole(96, low=2, high=2000, help="most images, evenly spaced along the run")
    burnin: bool = choice(
        True,
        choices=(True, False),
        states_bounds=True,
        help="whether to begin at the start of the chain, before the burn-in, which is drawn again: true or false",
    )


KINDS: dict[str, type[OfRun]] = {"show": ShowOptions, "vary": VaryOptions, "morph": MorphOptions, "film": FilmOptions}


def play_flags(command: str) -> dict[str, Flag]:
    """Return the flags of one of the four commands, those of its own first."""
    flags, shared = flags_of(KINDS[command]), flags_of(WithModels)
    own = {name: flag for name, flag in flags.items() if name == "run" or name not in shared}
    return {"run": own.pop("run"), **own, **{name: flag for name, flag in flags.items() if name in shared}}


def parse_play(command: str, kind: type[T], flags: dict[str, Any]) -> T:
    """Return the options that the flags of a command give.

    Raises:
      UserError: A flag is invalid, or one that has no default is missing.
    """
    check_flags(command, flags, play_flags(command))
    options = kind(**read_flags(kind, {name: value for name, value in flags.items() if value is not None}))
    _ = options.folder
    for name in ("chain", "first", "last"):
        if getattr(options, name, 0) is None:
            raise fail(name, "the number of a chain", "none", f"give --{name}=N, as below the images of grid.png")
    return options
