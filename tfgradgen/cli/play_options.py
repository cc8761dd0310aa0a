"""The flags of `show`, `vary`, `morph` and `film`, parsed and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tfgradgen.cli.flags import Flag, check_flags, flags_of, read_flags
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.settings import choice, path, real, switch, text, whole
from tfgradgen.core.settings import settings_of as declared
from tfgradgen.play.limits import (
    AMOUNT,
    FILM_FRAMES,
    FPS,
    LEAST_AMOUNT,
    LEAST_FPS,
    MORPH_FRAMES,
    MORPH_STEPS,
    MOST_FPS,
    MOST_FRAMES,
    MOST_MORPH_STEPS,
    MOST_SCALE,
    MOST_VARY_IMAGES,
    MOST_VARY_STEPS,
    SCALE,
    VARY_IMAGES,
    VARY_STEPS,
)
from tfgradgen.results.record import PLACES

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
class OfChain(OfRun):
    """The chain of the run, for the commands about one."""

    chain: int | None = whole(
        None, low=0, high=MOST, shown="N", help="number of the chain, from 0, as below the tiles of grid.png"
    )


@dataclass(frozen=True, kw_only=True)
class WithModels(OfRun):
    """The models of the run, for the commands that need them."""

    generator: str | None = text(None, shown="MODEL", help="where the run's generator is now; by default where it was")
    classifier: str | None = text(None, shown="MODEL", help="likewise its classifier; several as A,B")
    discriminator: str | None = text(None, shown="MODEL", help="likewise its discriminator")
    text_model: str | None = text(None, shown="MODEL", help="likewise the text model of a run with --text")
    classifier_labels: str | None = text(
        None, shown="FILE", help="the file of its class names, if the run names one outside the folders of run and classifier"
    )
    reference_captions: str | None = text(
        None, shown="FILE", help="the file of reference captions of a run that was given some"
    )
    allow_unknown_ops: bool = switch(
        help="load models with operations that such models do not need. Such a model can read and write files"
    )

    @property
    def places(self) -> dict[str, Any]:
        """The arguments of `load_posterior`."""
        files = ("classifier_labels", "reference_captions")
        return {name: getattr(self, name) for name in (*PLACES, *files, "allow_unknown_ops")}


@dataclass(frozen=True, kw_only=True)
class ShowOptions(OfChain):
    """The options of `show`."""

    scale: int | None = whole(
        None,
        low=1,
        high=MOST_SCALE,
        shown=str(SCALE),
        help="factor by which the image or still is enlarged; 1 writes it as it is",
    )


@dataclass(frozen=True, kw_only=True)
class VaryOptions(OfChain, WithModels):
    """The options of `vary`."""

    amount: float = real(
        AMOUNT,
        low=LEAST_AMOUNT,
        high=1.0,
        inclusive_low=True,
        inclusive_high=True,
        help="how much the draws may differ from that one; at 1, if all steps are accepted, only the class is left",
    )
    num_images: int = whole(VARY_IMAGES, low=1, high=MOST_VARY_IMAGES, help="number of draws")
    num_steps: int = whole(
        VARY_STEPS,
        low=1,
        high=MOST_VARY_STEPS,
        help="steps to each draw; more steps are smaller, so more of them are accepted",
    )
    seed: int = whole(0, low=0, high=SEED.high, help="seed of all random numbers")


@dataclass(frozen=True, kw_only=True)
class FilmFlags(WithModels):
    """The options of `morph` and `film` about the film."""

    scale: int | None = whole(
        None,
        low=1,
        high=MOST_SCALE,
        shown="N",
        help="factor by which images or stills are enlarged; by default to about 256 pixels",
    )
    fps: float = real(
        FPS, low=LEAST_FPS, high=MOST_FPS, inclusive_low=True, inclusive_high=True, help="frames per second of the film"
    )


@dataclass(frozen=True, kw_only=True)
class MorphOptions(FilmFlags):
    """The options of `morph`."""

    first: int | None = whole(None, low=0, high=MOST, shown="N", help="number of the chain where the path begins")
    last: int | None = whole(None, low=0, high=MOST, shown="N", help="number of the chain where it ends")
    frames: int = whole(MORPH_FRAMES, low=2, high=MOST_FRAMES, help="number of frames, both ends included")
    num_steps: int = whole(
        MORPH_STEPS,
        low=0,
        high=MOST_MORPH_STEPS,
        help="at most so many gradients move each frame in between towards the class; 0 for none",
    )


@dataclass(frozen=True, kw_only=True)
class FilmOptions(OfChain, FilmFlags):
    """The options of `film`."""

    frames: int = whole(FILM_FRAMES, low=2, high=MOST_FRAMES, help="largest number of frames, evenly spaced along the run")
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
    needed: dict[str, Flag] = {name: own.pop(name) for name in ("run", "chain", "first", "last") if name in own}
    return {**needed, **own, **{name: flag for name, flag in flags.items() if name in shared}}


def parse_play(command: str, kind: type[T], flags: dict[str, Any]) -> T:
    """Return the options that the flags of a command give.

    Raises:
      UserError: A flag is invalid, or one that has no default is missing.
    """
    check_flags(command, flags, play_flags(command))
    options = kind(**read_flags(kind, {name: value for name, value in flags.items() if value is not None}))
    _ = options.folder
    for name in ("chain", "first", "last") if kind is not ShowOptions else ():  # `show` without a chain shows all
        if getattr(options, name, 0) is None:
            raise fail(name, "the number of a chain", "none", f"give --{name}=N, as below the tiles of grid.png")
    return options
