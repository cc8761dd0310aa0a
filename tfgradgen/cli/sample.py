"""The `sample` command: from checked options to folders on disk."""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfgradgen.checks import fail
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.output import check_target, new_folder
from tfgradgen.cli.report import run_record, summary
from tfgradgen.contracts import Cost, Draws, Progress, ProgressFn
from tfgradgen.images import make_grid, save_png, to_uint8
from tfgradgen.models.classifier import Classifier, load_classifier
from tfgradgen.models.generator import Generator, load_generator
from tfgradgen.models.labels import resolve_labels
from tfgradgen.models.saved_model import try_call
from tfgradgen.posterior import ClassPosterior
from tfgradgen.preflight import check_likelihood
from tfgradgen.rejection import sample_exact
from tfgradgen.sampling import initial_points, sample_chains

DECODE_BATCH = 64
NUM_CHECKED = 4  # start points whose gradient is looked at before the first step
SHEET_COLUMNS = 8
NAME_LENGTH = 15  # letters that fit below a tile beside p(class)
SHEET_NAME = "sheet.png"


def run_sample(options: SampleOptions) -> None:
    """Samples every wanted label into a folder of its own; several labels also share a sheet, one row a label."""
    generator, classifier = load_generator(options.generator), load_classifier(options.classifier)
    check_pair(generator, classifier)
    indices = resolve_labels(classifier.labels, options.label)
    is_all = {label.name for label in classifier.labels if not label.background} == {classifier.labels[k].name for k in indices}
    folders = choose_folders(options, [classifier.labels[k].name for k in indices], is_all)
    for folder in folders:
        check_target(folder, options.overwrite)
    sheet_path = folders[0].parent / SHEET_NAME if len(folders) > 1 else None
    if sheet_path and sheet_path.exists() and not options.overwrite:
        raise fail("out", "a folder without a sheet", f"{sheet_path}, which exists", "choose another --out or add --overwrite")
    rows = []
    for index, folder in zip(indices, folders, strict=True):
        name = classifier.labels[index].name
        posterior = ClassPosterior(generator, classifier, index, options.run.temperature)
        with progress_bar(f"{options.kernel} {name}") as progress_fn:
            draws, facts = draw(posterior, options, progress_fn)
        record = run_record(options, generator, classifier, index, draws, facts)
        images = decode(generator, draws.z[-1])
        with new_folder(folder, options.overwrite) as beside:
            write_run(beside, record, draws, images)
        print(summary(record, folder), flush=True)
        rows.append((name, images, draws.class_prob[-1]))
    if sheet_path:
        save_png(sheet_path, sheet(rows))
        print(f"sheet    {sheet_path}: one row a label", flush=True)


def check_pair(generator: Generator, classifier: Classifier) -> None:
    """Runs the two together once: each may be sound and still not take the other's pictures."""
    example = tf.zeros([2, generator.latent_dim])
    try_call(lambda z: classifier(generator(z)), example, 2, f"{generator.path} into {classifier.path}")


def choose_folders(options: SampleOptions, names: list[str], is_all: bool) -> list[Path]:
    """One folder a label: --out itself for one label, a folder in it for each of several."""
    names = [re.sub(r"[^\w-]+", "_", name) for name in names]  # a foreign model's labels may hold commas and slashes
    if len({*names, ""}) <= len(names):
        names = [f"{name}_{k}" for k, name in enumerate(names)]
    together = "all" if is_all else "+".join(names[:3]) + ("+more" if len(names) > 3 else "")
    chosen = "-".join([names[0] if len(names) == 1 else together, options.kernel, str(options.run.seed)])
    base = options.out or Path("out") / chosen
    return [base] if len(names) == 1 else [base / name for name in names]


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressFn]:
    """A bar on stderr with acceptance, step size and p(class)."""
    with tqdm(desc=title, file=sys.stderr, unit="step", dynamic_ncols=True) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.num_total
            facts = {"accept": f"{progress.accept_rate:.2f}", "p(class)": f"{progress.class_prob:.2f}"}
            if np.isfinite(progress.step_size):
                facts["step_size"] = f"{progress.step_size:.3f}"
            bar.set_postfix(facts, refresh=False)
            bar.update(progress.num_done - bar.n)

        yield show


def draw(posterior: ClassPosterior, options: SampleOptions, progress_fn: ProgressFn) -> tuple[Draws, dict[str, Any]]:
    """Runs the wanted method; returns its draws and what it measured on the way."""
    start, run = time.monotonic(), options.run
    if options.kernel_config is None:
        draws, cost, prior_class_prob, accept_rate = sample_exact(posterior, options.schedule.num_results, run, progress_fn)
        facts: dict[str, Any] = {"prior_draws": cost.num_forward, "accept_rate": accept_rate}
    else:
        init_z, prior_class_prob, looked_at = initial_points(posterior, run)
        checked = init_z[:NUM_CHECKED]
        check_likelihood(posterior.likelihood_log_prob, checked)
        draws, cost = sample_chains(
            posterior, options.kernel, options.kernel_config, options.schedule, run, init_z, progress_fn
        )
        cost = Cost(cost.num_gradients + len(checked), looked_at)
        facts = {"prior_draws": looked_at}
    return draws, {**facts, "cost": cost, "prior_class_prob": prior_class_prob, "seconds": time.monotonic() - start}


def decode(generator: Generator, z: np.ndarray) -> np.ndarray:
    """uint8 pictures [num_chains, height, width, channels] of `z` [num_chains, latent_dim], a batch at a time."""
    batches = [generator(z[k : k + DECODE_BATCH]) for k in range(0, len(z), DECODE_BATCH)]
    return np.concatenate([to_uint8(batch) for batch in batches])


def write_run(folder: Path, record: dict[str, Any], draws: Draws, images: np.ndarray) -> None:
    """Writes grid.png, samples.npz and run.json into `folder`."""
    captions = [f"p {p:.2f}" for p in draws.class_prob[-1]]
    save_png(folder / "grid.png", make_grid(images, captions))
    np.savez_compressed(folder / "samples.npz", image=images, **draws._asdict())
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def sheet(rows: list[tuple[str, np.ndarray, np.ndarray]]) -> Any:
    """One row of tiles a label, with the label's name below the first."""
    columns = min(SHEET_COLUMNS, len(rows[0][1]))
    tiles = np.concatenate([images[:columns] for _, images, _ in rows])
    short = lambda name: name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"  # noqa: E731
    captions = [
        f"{short(name)} {p:.2f}" if k == 0 else f"{p:.2f}" for name, _, probs in rows for k, p in enumerate(probs[:columns])
    ]
    return make_grid(tiles, captions, num_columns=columns)
