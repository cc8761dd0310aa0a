"""The `tune` command: searches schedules, validates the best on fresh seeds, and writes the report."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

import tfgradgen
from tfgradgen.cli.load import Loaded, choose_backend, load_models
from tfgradgen.cli.model_options import non_default_flags
from tfgradgen.cli.output import SEARCH, is_resumed, say_time, workspace
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.remote import remote_of
from tfgradgen.cli.remote_cells import RemoteObjective
from tfgradgen.cli.surroundings import environment_at
from tfgradgen.cli.terminal import one_line, say
from tfgradgen.cli.tune_options import TuneOptions, read_control
from tfgradgen.core.checks import fail
from tfgradgen.core.files import write_text
from tfgradgen.core.text import as_text, command_text, counted
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.engine.engine import running
from tfgradgen.io.folders import REPORT
from tfgradgen.io.images import save_png
from tfgradgen.mcmc.chains import compiled
from tfgradgen.mcmc.recipe import Recipe, default_recipe
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.origin import model_record
from tfgradgen.results.record import surroundings
from tfgradgen.tuning.figures import importances, plot_search
from tfgradgen.tuning.gain import exact_draws, short_runs, validate
from tfgradgen.tuning.objective import Objective
from tfgradgen.tuning.report import best_text, to_csv, to_markdown, verdict
from tfgradgen.tuning.search import CONTROL, REJECTED, Plan, Trial, open_study, search, trials
from tfgradgen.tuning.space import check_fits, filled, num_gradients_of
from tfgradgen.viewing.document import Document, render_document

STUDY_FILE = SEARCH[0]
FILES_BESIDE = "tuning.csv has all trials; best.yaml is the best schedule."
KEPT = "finished runs are kept, --resume goes on with them"


def run_tune(options: TuneOptions) -> None:
    """Check the models, labels and control, run the search, and write its folder.

    Raises:
      UserError: A check failed, or the study cannot be written.
      Stopped: A signal ended the search.
    """
    out = options.out
    is_begun = is_resumed(out, options.resume, "a search", *SEARCH)
    control = read_control(options)
    with running(options.sampled.place) as engine:
        loaded = load_models(options.sampled.models)
        if engine:
            loaded = loaded._replace(remote=remote_of(engine, options.sampled.models, loaded))
        _run(options, control, loaded, is_begun)


def _run(options: TuneOptions, control: Recipe, loaded: Loaded, is_begun: bool) -> None:
    from optuna.exceptions import StorageInternalError

    out, start = options.out, time.monotonic()
    targets = loaded.targets(options.sampled.label)
    options = replace(options, sampled=choose_backend(options.sampled, loaded, targets[0]))
    run = options.sampled.run
    posteriors = {t.label.name: ClassPosterior.of(loaded.networks(t), t.index, run.temperature) for t in targets}
    objective = Objective(posteriors, run, options.num_gradients)
    if loaded.remote:
        objective = RemoteObjective(loaded.remote, options.sampled, objective)
    check_fits(options.kernel, options.num_gradients, options.fixed)
    checked = objective.check().items()
    warnings = [with_page("models", f"{as_text(name)}: {line}") for name, lines in checked for line in lines]
    for line in warnings:
        say(f"warning  {line}")
    with workspace(out, f"finished runs are in {out / STUDY_FILE}, --resume goes on with them", KEPT):
        try:
            study = open_study(out / STUDY_FILE, identity(options, control, loaded))
            _run_locked(options, control, objective, study, warnings)
        except StorageInternalError as error:
            reason = one_line(error.__cause__ or error)
            expected, remedy = "a study that can be written", f"free space; {KEPT}"
            raise fail("out", expected, f"{out / STUDY_FILE} ({reason})", remedy) from error
    say_time(start, is_begun)
    files = f"{REPORT} (open it in a browser), report.md, best.yaml, tuning.csv, tuning.png, {STUDY_FILE}"
    say(f"wrote    {as_text(options.out)}: {files}")


def default_beside(control: Recipe, options: TuneOptions) -> Recipe | None:
    """Return the kernel's own schedule, with the length of a run, for a trial of its own.

    Return None if it is the control, does not fit into a run, or differs from a fixed setting.
    """
    default = filled(default_recipe(control.kernel), options.num_gradients)
    is_held = all(default.to_dict()[name] == value for name, value in options.fixed.items())
    return default if is_held and default != control and num_gradients_of(default) <= options.num_gradients else None


def _run_locked(options: TuneOptions, control: Recipe, objective: Objective, study: Any, warnings: list[str]) -> None:
    counts = options.num_gradients, options.num_seeds, options.budget
    plan = Plan(
        options.kernel,
        control,
        *counts,
        options.sampled.run.seed,
        default_beside(control, options),
        options.fixed,
    )
    best = [max((trial.value for trial in trials(study) if trial.is_sound), default=0.0)]

    def tell(trial: Trial, spent: float) -> None:
        if trial.is_sound:
            best[0] = max(best[0], trial.value)
        what = f"ESS {trial.value:.2f} per 1000 gradients in {counted(len(trial.cells), 'run')}" if trial.cells else "no run"
        why = f": {trial.issues[0]}" if trial.state in (CONTROL, REJECTED) and trial.issues else ""
        share = 100 * min(spent / plan.budget, 1.0)
        say(f"trial    {trial.number} {trial.state}, {what} (best {best[0]:.2f}), {share:.0f} % of the budget{why}")

    try:
        with progress_bar(f"tune {plan.kernel}", "gradient") as progress_fn:
            found = search(study, objective, plan, progress_fn, tell)
        with progress_bar("fresh seeds", "gradient") as progress_fn:
            exact = exact_draws(study, objective)
            validations = validate(study, objective, plan, options.num_fresh, exact, progress_fn)
    finally:
        compiled.cache_clear()  # it holds a graph for each adaptation scheme
    short = [with_page("few-effective-draws", line) for line in short_runs(found, plan.num_gradients)]
    report = to_markdown(plan, exact, found, validations, command_line(options), [*warnings, *short])
    title = f"{plan.kernel} for {', '.join(exact)}: {verdict(validations)[0]}"
    plot = plot_search(found, validations[-1].trial if validations else None, importances(study), title)
    write_results(options.out, report, plot, to_csv(found), best_text(plan, validations, command_line(options)))
    say(f"gain     {verdict(validations)[0]}")
    for line in short:
        say(f"warning  {line}")


def write_results(out: Path, report: str, plot: Image.Image, table: str, best: str) -> None:
    """Write all files except the study, each to a temporary name that is then renamed."""
    save_png(out / "tuning.png", plot)
    page = Document(report, {"tuning.png": plot}, FILES_BESIDE, tfgradgen.__version__)
    texts = {"tuning.csv": table, "report.md": report, "best.yaml": best, REPORT: render_document(page)}
    for name, text in texts.items():
        write_text(out / name, text)


def identity(options: TuneOptions, control: Recipe, loaded: Loaded) -> dict[str, Any]:
    """Return everything that determines the trials."""
    models, targets = options.sampled.models, loaded.targets(options.sampled.label)
    classes = [target.label.name for target in targets if target.is_class]
    return {
        "arguments": options.to_dict(),
        "control": control.to_dict(),
        "default": default_recipe(control.kernel).to_dict(),  # search ranges depend on it
        "discriminator_weight": models.discriminator_weight,
        **surroundings(environment_at(loaded, options.sampled.run.jit)),
        "generator": model_record(loaded.generator) | {"path": None},
        "classifiers": {str(k): model_record(model) | {"path": None} for k, model in enumerate(loaded.classifiers)},
        **({"text": loaded.text.about} if loaded.text else {}),
        # An earlier version sampled classes beside conditions as conditions: its studies do not go on.
        **({"classes": classes} if 0 < len(classes) < len(targets) else {}),
    }


def command_line(options: TuneOptions) -> str:
    """Return the command line that repeats the search."""
    run, label = options.sampled.run, options.sampled.label
    flags = {
        **({} if label is None else {"label": label}),
        "kernel": options.kernel,
        "budget": f"{options.budget:g}",
        **{name: getattr(options, name) for name in ("num_gradients", "num_seeds", "num_fresh")},
        **{name: getattr(run, name) for name in ("num_chains", "temperature", "seed", "init")},
        **options.fixed,
        **({"control": options.control} if options.control else {}),
        **non_default_flags(options.sampled.models),
        "out": options.out,
    }
    return command_text("tune", flags)
