"""The `export` command: writes a folder that TF Serving can serve without changes."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tfgradgen.cli.beside import NEW, RECORD, digests, write_beside, written_before
from tfgradgen.cli.early import check_version
from tfgradgen.cli.export_options import ExportOptions
from tfgradgen.cli.load import Loaded, load_models
from tfgradgen.cli.output import next_version, workspace
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.terminal import note, say
from tfgradgen.core.checks import fail, renamed
from tfgradgen.core.contracts import Networks
from tfgradgen.core.files import json_text, write_text
from tfgradgen.core.text import as_text, shell_word
from tfgradgen.diagnostics.issues import with_page
from tfgradgen.io.folders import atomic_dir, safe_filename
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.targets import Target
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.origin import environment, model_record
from tfgradgen.serving.adapt import Adapted, adapt
from tfgradgen.serving.chains import Plan
from tfgradgen.serving.deployment_files import Settings, render_templates
from tfgradgen.serving.export import write_saved_model
from tfgradgen.serving.module import Serving
from tfgradgen.serving.row_check import RowCheck, check_rows

CLIENT = "rest_client.py"
CHANNELS = (1, 3, 4)  # of images and clips that a server can write


# Temporary folders that `atomic_dir` makes for a version. Replaced folders end in .old, but a version is never replaced.
OF_A_KILLED_EXPORT = re.compile(r"\.\d+\.partial-[^.]+")


def run_export(options: ExportOptions) -> None:
    """Write the next version of a served model, and next to it the files that its server needs. A failed version is removed."""
    folder, was_there = check_version(options), options.out.exists()
    loaded = load_models(options.pair.models)
    with renamed("label", "labels"):
        targets = loaded.targets(options.labels)
    networks = shared_networks(loaded, targets)
    model = safe_filename(options.out.name)
    try:
        with workspace(options.out, "nothing was exported"):
            for left in options.out.iterdir():
                if OF_A_KILLED_EXPORT.fullmatch(left.name):
                    shutil.rmtree(left, ignore_errors=True)
            adapted = adapt_all(options, networks, targets)
            rows = checked_rows(options, networks, targets)
            plan = plan_of(options, targets, adapted, rows)
            settings = Settings(options.batch_sizes, options.xla, options.num_steps, plan.batched)
            files = render_templates(model, settings, loaded.generator.medium)
            # The files next to the versions are those of the highest one, which a server loads.
            ours = written_before(options.out) if int(folder.name) >= next_version(options.out) else set()
            models = [
                model.module for model in (loaded.generator, *loaded.classifiers, loaded.text, loaded.discriminator) if model
            ]
            with atomic_dir(folder) as beside:
                names = write_saved_model(Serving(networks, models, plan), beside, model, options.batch_sizes, options.xla)
                record = record_of(options, loaded, targets, adapted)
                record |= {"row_check": rows and rows._asdict(), "model": model, "signatures": names, "beside": digests(files)}
                write_text(beside / RECORD, json_text(record, 2) + "\n")
    finally:
        if not was_there:
            with suppress(OSError):  # missing, or not empty because it holds a version
                options.out.rmdir()
    say(f"exported {as_text(folder)}: {', '.join(names)} of {len(targets)} label{'s' if len(targets) > 1 else ''}")
    kept = write_beside(options.out, files, ours)
    for name in kept:
        say(f"kept     {as_text(options.out / name)}, which differs from the file of this version: see {name}{NEW}")
    say(f"start    docker compose -f {shell_word(str(options.out / 'docker-compose.yml'))} up")
    say(f"or       python -m tfgradgen serve --export={shell_word(str(options.out))}, without Docker")
    client = f"{CLIENT}{NEW}" if CLIENT in kept else CLIENT
    say(f"ask      python {shell_word(str(options.out / client))} {shell_word(targets[0].label.name)}")


def shared_networks(loaded: Loaded, targets: Sequence[Target]) -> Networks:
    """Return the networks that the chains of all targets evaluate.

    Raises:
      UserError: The targets have different networks, or no file can hold the generator's output.
    """
    networks = loaded.networks(targets[0])
    if len(targets) > 1 and any(loaded.networks(target) != networks for target in targets):
        raise fail(
            "labels",
            "one label of a class-conditional generator or of a composed condition",
            f"{len(targets)}, each with networks of its own",
            "export each under its own --out",
        )
    medium = loaded.generator.medium
    if medium.has_channels and medium.shape[-1] not in CHANNELS:
        expected = f"{medium.plural} of 1, 3 or 4 channels, as {medium.ending} files have them"
        raise fail("generator", expected, list(medium.shape), "choose another --generator")
    return networks


def adapt_all(options: ExportOptions, networks: Networks, targets: Sequence[Target]) -> list[Adapted]:
    """Tune the step size of each target. Warnings about the models are printed to stderr."""
    pair, found = options.pair, []
    for number, target in enumerate(targets, 1):
        posterior = ClassPosterior.of(networks, target.index, pair.run.temperature)
        with progress_bar(f"{number} of {len(targets)}, step size of {target.label.name}") as progress_fn:
            found.append(
                adapt(posterior, pair.kernel, pair.kernel_config, pair.schedule.num_adaptation_steps, pair.run, progress_fn)
            )
        for line in found[-1].warnings:
            note(f"warning  {with_page('models', f'{as_text(target.label.name)}: {line}')}")
    return found


def checked_rows(options: ExportOptions, networks: Networks, targets: Sequence[Target]) -> RowCheck | None:
    """Check what --batched relies on; None without that flag. A failure is a warning, since other signatures do not need it."""
    if options.batched is None:
        return None
    run = options.pair.run
    found = check_rows(networks, [target.index for target in targets], run.temperature, options.batched, run.seed)
    if not found.is_independent:
        note(
            f"warning  batched: rows that go through these models together change one another, by up to {found.row_gap:.2g}; "
            "exported without the signatures *_batched"
        )
    return found


def plan_of(
    options: ExportOptions, targets: Sequence[Target], adapted: Sequence[Adapted], rows: RowCheck | None = None
) -> Plan:
    """Return the fixed settings of the export."""
    pair = options.pair
    return Plan(
        labels=tuple(target.label for target in targets),
        indices=tuple(target.index for target in targets),
        step_sizes=tuple(each.step_size for each in adapted),
        num_leapfrog_steps=SAMPLERS[pair.kernel].served_steps(pair.kernel_config),
        temperature=pair.run.temperature,
        num_steps=options.num_steps,
        max_steps=options.max_steps,
        num_start_draws=options.num_start_draws,
        batched=rows.num_rows if rows and rows.is_independent else None,
    )


def record_of(options: ExportOptions, loaded: Loaded, targets: Sequence[Target], adapted: Sequence[Adapted]) -> dict[str, Any]:
    """Return what is needed to repeat the export, and the values that are fixed in it."""
    return {
        "command": "export",
        "arguments": options.to_dict(),
        "labels": [
            {
                **{"index": target.index, "name": target.label.name, "wnid": target.label.wnid},
                **{"step_size": each.step_size, "accept_rate": each.accept_rate, "doubts": each.warnings},
            }
            for target, each in zip(targets, adapted, strict=True)
        ],
        "generator": model_record(loaded.generator),
        "classifiers": [model_record(classifier) for classifier in loaded.classifiers],
        **({"text": loaded.text.about} if loaded.text else {}),
        **({"discriminator": model_record(loaded.discriminator)} if loaded.discriminator else {}),
        **environment(options.pair.run.jit),
    }
