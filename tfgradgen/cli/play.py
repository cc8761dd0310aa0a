"""The commands `show`, `vary`, `morph` and `film`: what to do with a finished run."""

from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.cli.diagnose import no_run
from tfgradgen.cli.opening import open_file
from tfgradgen.cli.play_options import FilmFlags, FilmOptions, MorphOptions, OfRun, ShowOptions, VaryOptions, parse_play
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.terminal import note, say
from tfgradgen.core.checks import fail
from tfgradgen.core.quiet import start_tensorflow
from tfgradgen.core.text import as_text
from tfgradgen.io.animation import ENDINGS, check_ending, encoded
from tfgradgen.io.folders import RECORD, REPORT, check_partial, check_target
from tfgradgen.io.single import check_file, record_path, write_with_record
from tfgradgen.media.image import as_png
from tfgradgen.play.clip import Clip, check_scale
from tfgradgen.play.limits import SCALE
from tfgradgen.play.show import enlarged, grid_record, show, show_record
from tfgradgen.play.which import check_chain, check_two
from tfgradgen.results.files import best_first_order
from tfgradgen.results.record import PLACES, VARIED
from tfgradgen.results.result import SampleResult, load_run
from tfgradgen.results.summary import verdict, wrote


def run_show(flags: dict[str, Any]) -> None:
    """Run `show`: all images, best first, or one, enlarged; a sound or clip also as a file of its own format, by the ending."""
    options = parse_play("show", ShowOptions, flags)
    result = _run(options, "show")
    medium, is_all = result.medium, options.chain is None
    chain = 0 if is_all else check_chain("chain", options.chain, result)
    target = options.target("-best.png" if is_all else f"-chain{chain}.png")
    order = best_first_order(result.class_prob[-1]) if is_all else np.array([chain])
    frames, ending = medium.frames(result.media[order]), target.suffix.lower()
    endings = dict.fromkeys((".png", *(ENDINGS if frames else () if is_all else (medium.ending,))))
    if ending not in endings:
        raise fail("out", f"a file that ends in {', '.join(endings)}", as_text(target), "give another name, such as fish.png")
    if is_all and options.scale is not None:
        raise fail("scale", "--chain=N with it", "no chain", "add --chain=N, or leave --scale out")
    if options.scale is not None and not frames and ending != ".png":
        raise fail("scale", "a picture, which can be enlarged", f"a file of a {medium.noun}", "leave it out, or write .png")
    if frames and ending != ".png":
        check_ending(target)
    check_file(target, options.overwrite)
    scale = options.scale or (SCALE if ending == ".png" else 1)
    if ending == ".png":
        shown = [result.grid(best_first=True) if is_all else show(result, chain, scale=scale)]
        content = as_png(shown[0])
    else:
        shown = [enlarged(frame, scale) for frame in frames]
        is_own = ending == medium.ending and not is_all and scale == 1
        content = medium.file(result.media[chain]) if is_own else encoded(shown, medium.used_rate, ending, hold=0.0)
    record = grid_record(result) if is_all else show_record(result, chain, scale)
    write_with_record(target, content, record, options.overwrite)
    name, p = as_text(result.record["label"]["name"]), result.class_prob[-1, chain]
    if is_all:
        say(f"{medium.plural:9}{len(result.images)} of {name}, best first: the last draws")
    else:
        size = [f", {each.width} x {each.height} pixels" for each in shown[:1]]  # of a sound there is none
        say(f"{medium.noun:9}chain {chain} of {name}, the last draw: p(class) {p:.2f}{''.join(size)}")
    _wrote(target, options)


def run_vary(flags: dict[str, Any]) -> None:
    """Run the `vary` command: images near one."""
    options = parse_play("vary", VaryOptions, flags)
    result = _run(options, "vary")
    chain, target = check_chain("chain", options.chain, result), options.target(f"-chain{options.chain}-vary-{options.seed}")
    check_partial(target, welcome=False)
    check_target(target, options.overwrite)
    posterior = _posterior(options, result)
    from tfgradgen.play.vary import vary

    with progress_bar(f"vary chain {chain}") as progress_fn:
        counts: dict[str, Any] = {
            "num_images": options.num_images,
            "num_steps": options.num_steps,
            "seed": options.seed,
        }
        found = vary(result, chain, amount=options.amount, **counts, posterior=posterior, progress=progress_fn)
    found = found.noted(_said_of_models(found.record, options))
    found.save(target, options.overwrite)
    record, plural = found.record, result.medium.plural
    say(
        f"ran      {options.num_images} {plural} near chain {chain} of {as_text(result.folder)}: amount {options.amount:g} "
        f"in {options.num_steps} steps, acceptance {record['accept_rate']:.2f}, in {record['seconds']:.0f} s"
    )
    say(f"p(class) mean {found.class_prob[-1].mean():.2f} of the {plural}; {result.class_prob[-1, chain]:.2f} of that draw")
    say("\n".join(verdict(record)))
    say(wrote(record, target))
    if options.opens:
        open_file(target / REPORT)


def run_morph(flags: dict[str, Any]) -> None:
    """Run the `morph` command: a film of the path from one image to another."""
    options = parse_play("morph", MorphOptions, flags)
    result = _run(options, "morph")
    first, last = check_two(options.first, options.last, result)
    target = _film_target(options, result, f"-morph-{first}-{last}.gif")
    posterior = _posterior(options, result)
    from tfgradgen.play.morph import morph

    with progress_bar(f"morph {first} to {last}") as progress_fn:
        counts = {"frames": options.frames, "num_steps": options.num_steps}
        clip = morph(result, first, last, **counts, posterior=posterior, progress=progress_fn)
    least, before = clip.record["least_class_prob"], clip.record["least_class_prob_of_great_circle"]
    say(f"path     chain {first} to chain {last}: least p(class) {least:.2f}; {before:.2f} on the great circle alone")
    _save(clip, target, options)


def run_film(flags: dict[str, Any]) -> None:
    """Run the `film` command: a film of one chain."""
    options = parse_play("film", FilmOptions, flags)
    result = _run(options, "film")
    chain = check_chain("chain", options.chain, result)
    target = _film_target(options, result, f"-chain{chain}.gif")
    posterior = _posterior(options, result)
    from tfgradgen.play.film import film

    with progress_bar("burn-in") as progress_fn:
        frames, burnin = options.frames, options.burnin
        clip = film(result, chain, frames=frames, burnin=burnin, posterior=posterior, progress=progress_fn)
    if "warning" in clip.record:
        say(f"warning  {clip.record['warning']}")
    points = clip.record["points"]
    say(f"film     chain {chain}, {len(clip.images)} {result.medium.plural} from {points[0]} to {points[-1]}")
    _save(clip, target, options)


PLAY_FNS = {"show": run_show, "vary": run_vary, "morph": run_morph, "film": run_film}


def _run(options: OfRun, command: str) -> SampleResult:
    """Return the run of a command.

    Raises:
      UserError: The folder has none, or a damaged one.
    """
    if not (options.folder / RECORD).exists():
        raise no_run(options.folder, command)
    return load_run(options.folder)


def _film_target(options: FilmFlags, result: SampleResult, ending: str) -> Path:
    """Return the path of the film's file. It is checked first, so that nothing is computed in vain."""
    target = options.target(ending)
    check_ending(target)
    check_file(target, options.overwrite)
    check_scale(options.scale, result.images.shape[1])
    return target


def _said_of_models(record: dict[str, Any], options: VaryOptions) -> dict[str, Any]:
    """Return the entries of run.json that say which models were given in place of those that the run names."""
    given = {name: value for name, value in options.places.items() if value}
    if not given:
        return {}
    places = record[VARIED].get("models", {}) | {name: value for name, value in given.items() if name in PLACES}
    return {"arguments": {**record["arguments"], **given}, VARIED: {**record[VARIED], "models": places}}


def _posterior(options: Any, result: SampleResult) -> Any:
    note("doing    loading TensorFlow")
    start_tensorflow()
    from tfgradgen.play.source import load_posterior

    note("doing    loading models")
    return load_posterior(result, **options.places)


def _save(clip: Clip, target: Path, options: FilmFlags) -> None:
    clip.save(target, scale=options.scale, fps=options.fps, overwrite=options.overwrite)
    _wrote(target, options)


def _wrote(target: Path, options: OfRun) -> None:
    say(f"wrote    {as_text(target)}, and what reproduces it in {as_text(record_path(target).name)}")
    if options.opens:
        open_file(target)
