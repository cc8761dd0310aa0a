"""The `tune` command: searches, judges on fresh seeds, and writes the report."""

import os
import shlex
import time
from pathlib import Path
from typing import Any

from tfgradgen.checks import fail
from tfgradgen.cli.load import Loaded, load_models
from tfgradgen.cli.output import LOCK, held, not_written
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.report import environment, model_record
from tfgradgen.cli.tune_options import TuneOptions
from tfgradgen.images import save_png
from tfgradgen.posterior import ClassPosterior
from tfgradgen.recipe import Recipe, default_recipe, read_recipe, write_recipe
from tfgradgen.sampling import compiled
from tfgradgen.tuning.bench import Bench
from tfgradgen.tuning.figures import importances, plot_search
from tfgradgen.tuning.gain import Judged, judge
from tfgradgen.tuning.report import to_csv, to_markdown, verdict, winner
from tfgradgen.tuning.search import FAULTY, Plan, Trial, open_study, search
from tfgradgen.tuning.space import check_tunable, filled

STUDY_FILE = "study.db"
OURS = {STUDY_FILE, f"{STUDY_FILE}-journal", LOCK, "report.md", "best.yaml", "tuning.csv", "tuning.png"}


def run_tune(options: TuneOptions) -> None:
    """Writes the folder of a search."""
    out = options.out
    check_out(out, options.resume)
    control = read_control(options)
    loaded = load_models(options.sampled.models)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with held(out):
            try:
                _run_held(options, control, loaded)
            finally:
                (out / LOCK).unlink(missing_ok=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"finished runs are in {out / STUDY_FILE}, --resume goes on with them") from None
    except OSError as error:
        raise not_written(out, error, "finished runs are kept, --resume goes on with them") from None


def read_control(options: TuneOptions) -> Recipe:
    """The schedule to beat, as long as every run."""
    if options.control is None:
        return filled(default_recipe(options.kernel), options.num_gradients)
    recipe = read_recipe(options.control)
    check_tunable(recipe.kernel)
    return filled(recipe, options.num_gradients)


def _run_held(options: TuneOptions, control: Recipe, loaded: Loaded) -> None:
    start, run = time.monotonic(), options.sampled.run
    plan = Plan(options.kernel, control, options.num_gradients, options.num_seeds, options.budget, run.seed)
    targets = loaded.targets(options.sampled.label)
    posteriors = {t.label.name: ClassPosterior.of(loaded.networks(t), t.index, run.temperature) for t in targets}
    bench = Bench(posteriors, run)
    study = open_study(options.out / STUDY_FILE, identity(options, control, loaded))
    bench.check()
    best = [0.0]

    def say(trial: Trial, spent: float) -> None:
        if trial.is_sound:
            best[0] = max(best[0], trial.value)
        faults = [fault for cell in trial.cells for fault in cell.faults]
        what = f"{trial.value:.2f} draws of 1000 gradients in {len(trial.cells)} runs" if trial.cells else "no run"
        why = f": {faults[0]}" if trial.state == FAULTY and faults else ""
        share = 100 * min(spent / plan.budget, 1.0)
        print(
            f"trial    {trial.number} {trial.state}, {what} (best {best[0]:.2f}), {share:.0f} % of the budget{why}", flush=True
        )

    try:
        with progress_bar(f"tune {plan.kernel}", "gradient") as progress_fn:
            found = search(study, bench, plan, progress_fn, say)
        with progress_bar("fresh seeds", "gradient") as progress_fn:
            judged = judge(study, bench, plan, options.num_fresh, progress_fn)
    finally:
        compiled.cache_clear()  # a graph for every number of adaptation steps
    write_results(options, plan, study, found, judged)
    print(f"gain     {verdict(judged)[0]}")
    print(f"took     {time.monotonic() - start:.0f} s for what was not there yet")
    print(f"wrote    {options.out}: report.md, best.yaml, tuning.csv, tuning.png, {STUDY_FILE}", flush=True)


def write_results(options: TuneOptions, plan: Plan, study: Any, found: list[Trial], judged: list[Judged]) -> None:
    """All files but the study, each written beside and renamed."""
    out, sentence = options.out, verdict(judged)[0]
    labels = ", ".join(map(str, _labels(options)))
    best = judged[-1].trial if judged else None
    save_png(out / "tuning.png", plot_search(found, best, importances(study), f"{plan.kernel} for {labels}: {sentence}"))
    texts = {
        "tuning.csv": to_csv(found),
        "report.md": to_markdown(plan, _labels(options), found, judged, command_line(options)),
    }
    for name, text in texts.items():
        beside = out / f".{name}.partial"
        beside.write_text(text, encoding="utf-8")
        beside.replace(out / name)
    write_recipe(out / "best.yaml", winner(plan, judged), f"{sentence}\nSearched by: {command_line(options)}")


def _labels(options: TuneOptions) -> list[str]:
    label = options.sampled.label
    return [str(part) for part in label] if isinstance(label, list | tuple) else str(label).split(",")


def identity(options: TuneOptions, control: Recipe, loaded: Loaded) -> dict[str, Any]:
    """What decides every trial."""
    surroundings = environment(options.sampled.run.jit)
    models = options.sampled.models
    return {
        "arguments": options.to_dict(),
        "control": control.to_dict(),
        "discriminator_weight": models.discriminator_weight,
        **{name: surroundings[name] for name in ("versions", "device", "machine", "backend")},
        "generator": model_record(loaded.generator) | {"path": None},
        "classifiers": {str(k): model_record(model) | {"path": None} for k, model in enumerate(loaded.classifiers)},
    }


def check_out(out: Path, resume: bool) -> None:
    """Raises `UserError` unless `out` can be made, or holds a search and nothing else where `resume` allows it."""
    if not os.path.lexists(out):
        return
    if not out.is_dir() or (any(out.iterdir()) and not resume):
        raise fail("out", "a new folder", f"{out}, which exists", "go on with it with --resume, or choose another --out")
    names = {path.name for path in out.iterdir()}
    foreign = sorted(name for name in names - OURS if not name.startswith("."))
    if names and (foreign or STUDY_FILE not in names):
        what = f"which also holds {foreign[0]}" if foreign else f"which has no {STUDY_FILE}"
        raise fail("out", "the folder of a search to resume", f"{out}, {what}", "choose another --out; it is left as it is")


def command_line(options: TuneOptions) -> str:
    """What makes the search again; models are to be named as they were."""
    run = options.sampled.run
    control = f" --control={shlex.quote(str(options.control))}" if options.control else ""
    return (
        f"python -m tfgradgen tune --label={shlex.quote(','.join(_labels(options)))} --kernel={options.kernel} "
        f"--budget={options.budget:g} --num_gradients={options.num_gradients} --num_seeds={options.num_seeds} "
        f"--num_fresh={options.num_fresh} --num_chains={run.num_chains} --temperature={run.temperature:g} --seed={run.seed} "
        f"--init={run.init}{control} --out={shlex.quote(str(options.out))}"
    )
