"""Descriptions of the commands: what each does, and the declared flags that it takes, in the groups of its help."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tfgradgen.cli import compare_options, demo_options, export_options, serve_options, tune_options
from tfgradgen.cli.flags import Flag, Group, flags_of
from tfgradgen.cli.model_options import DECLARED
from tfgradgen.cli.options import ANY_KERNEL, PLACE_FLAGS, SampleOptions, sample_flags, unused_flags
from tfgradgen.cli.play_options import play_flags
from tfgradgen.core.config import RunConfig, Schedule
from tfgradgen.core.settings import path, switch, text
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.recipe import settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler
from tfgradgen.models.loading.settings import CLASSIFIER_FLAGS
from tfgradgen.results.record import TEXTS
from tfgradgen.tuning.space import searched, tunable

COUNTS = ("num_results", "num_burnin_steps", "num_adaptation_steps")
OF_A_LABEL = "A class whose name contains a comma or an operator is given by its full name."
NOT_TUNED = "It adapts no step size, so `tune` has nothing to search."
OF_SET = "list only the models of this set"
OF_MODELS = (
    "A MODEL is a folder, an archive (.tar.gz), a TF-Hub URL or a Kaggle Models handle; the default is the shipped one. "
    "Settings that a model does not show are guessed, and the guesses are printed."
)


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
      name: Its name.
      about: What it does; the overview shows the first sentence.
      groups_fn: Function from a sampler, or None for what all samplers share, to the groups of flags in the help.
      places: Default of each argument that can be given without a name.
      more_fn: Function that returns the names of flags that the help shows only for a sampler.
      takes_fn: Function that returns whether the command can use a sampler.
      example: Example in the help; may be ''.
      end: Last lines of the help; may be ''.
    """

    name: str
    about: str
    groups_fn: Callable[[Sampler | None], list[Group]]
    places: dict[str, Any] = field(default_factory=dict)
    more_fn: Callable[[], tuple[str, ...]] = tuple
    takes_fn: Callable[[Sampler], bool] = lambda sampler: True
    example: str = ""
    end: str = ""

    def flags(self) -> dict[str, Flag]:
        """Return the flags that do not depend on a sampler, by name."""
        return {name: flag for group in self.groups_fn(None) for name, flag in group.flags.items()}

    def known(self) -> tuple[str, ...]:
        """Return the names of all flags that the command takes."""
        return tuple(dict.fromkeys((*self.flags(), *self.more_fn())))

    def texts(self) -> tuple[str, ...]:
        """Return the names of the flags whose values are used as typed."""
        return tuple(name for name, flag in self.flags().items() if flag.setting.is_text)


@dataclass(frozen=True)
class DiagnoseFlags:
    """The flags of `diagnose`, except --strict."""

    folder: str = path(shown="FOLDER", help="folder of a run of `sample`; the name of the flag may be left out")
    json: bool = switch(help='print one JSON object, {"runs": [...]}, instead of tables')


@dataclass(frozen=True)
class CompletionFlags:
    """The flags of `completion`."""

    shell: str = text(shown="SHELL", help="bash, zsh or fish; the name of the flag may be left out")


def _every_run() -> dict[str, Flag]:
    return flags_of(SampleOptions) | flags_of(RunConfig) | flags_of(Schedule) | DECLARED


def _of(flags: Mapping[str, Flag], *names: str) -> dict[str, Flag]:
    return {name: flags[name] for name in names if name in flags}


def _changed(flag: Flag, default: Any = None, **changed: Any) -> Flag:
    """Return `flag` as a particular command has it: what is `changed` in its setting, and `default` if it is not None."""
    return Flag(replace(flag.setting, **changed), flag.default if default is None else default)


def _settings_group(sampler: Sampler | None, command: str, kernels: Iterable[str]) -> Group:
    """Return the settings of `sampler`; if it is None, return a note that says how to list those of the `kernels`."""
    if sampler is None:
        each = f"python -m tfgradgen {command} --kernel=KERNEL --help"
        note = f"KERNEL is one of {', '.join(kernels)}. To see its settings: {each}."
        return Group("Settings of a kernel", {}, f"{note} To compare them: python -m tfgradgen kernels.")
    flags = flags_of(sampler.defaults)
    note = "" if flags else "It has none."
    return Group(f"Settings of {sampler.name} ({sampler.about}; {sampler.exactness})", flags, note)


def _models_group(*names: str) -> Group:
    return Group("Models", _of(DECLARED, *names) if names else DECLARED, OF_MODELS)


def _without(groups: list[Group], names: tuple[str, ...]) -> list[Group]:
    return [replace(group, flags={n: flag for n, flag in group.flags.items() if n not in names}) for group in groups]


def _sample_groups(sampler: Sampler | None) -> list[Group]:
    flags = _every_run()
    unused: tuple[str, ...] = ()
    if sampler is not None:
        flags |= flags_of(sampler.schedule) | {"kernel": Flag(flags["kernel"].setting, sampler.name)}
        known = settings_of(sampler)
        unused = (*unused_flags(sampler), *(name for name in COUNTS if name not in known))
        unused += () if sampler.can_go_on else ("time_budget",)
        unused += ("discriminator",) if "discriminator_weight" in unused else ()
    length = Group(
        "Length",
        _of(flags, "num_chains", *COUNTS, "time_budget"),
        "" if sampler else "The defaults of the numbers of draws and transitions depend on the kernel.",
    )
    return _without(
        [
            Group("What to sample", _of(flags, "label", *TEXTS, "temperature", "init", "like"), OF_A_LABEL),
            Group("Sampler", _of(flags, "kernel", "schedule")),
            _settings_group(sampler, "sample", (auto.NAME, *SAMPLERS)),
            length,
            Group("Computation", _of(flags, "seed", "jit", "gradient_precision", "block", *PLACE_FLAGS)),
            _models_group(*(name for name in DECLARED if name not in TEXTS)),
            Group("Output", _of(flags, "out", "overwrite", "resume", "strict", "netcdf", "save_images", "photographs", "open")),
        ],
        unused,
    )


def _compare_groups(sampler: Sampler | None) -> list[Group]:
    own, flags = flags_of(compare_options.CompareOptions), _every_run()
    same = "The same seed, machine and backend give the same draws and measurements"
    flags["seed"] = _changed(flags["seed"], help=f"seed of all random numbers. {same}")
    flags["init"] = _changed(flags["init"], help="where chains start, as for `sample`: resample, prior or IMAGE")
    flags["num_chains"] = _changed(flags["num_chains"], low=compare_options.MIN_CHAINS)
    return [
        Group(
            "What to compare", _of(own, "labels") | _of(flags, *TEXTS) | _of(own, "kernels", "class_reg") | _of(flags, "init")
        ),
        Group("Length", _of(own, "num_gradients") | _of(flags, "num_chains")),
        Group("Computation", _of(flags, "seed", "jit", *PLACE_FLAGS)),
        _models_group(*(name for name in DECLARED if name in compare_options.SAMPLE_FLAGS and name not in TEXTS)),
        Group("What measures", _of(own, "judge", "discriminator", "photographs")),
        Group("Output", _of(own, "out", "resume")),
    ]


def _tune_groups(sampler: Sampler | None) -> list[Group]:
    own, flags = flags_of(tune_options.TuneOptions), _every_run()
    least, usual = tune_options.MIN_CHAINS, tune_options.DEFAULT_CHAINS
    flags["num_chains"] = _changed(flags["num_chains"], usual, help="chains of each run", low=least)
    flags["seed"] = _changed(flags["seed"], help="seed of the search and of its runs")
    flags["init"] = _changed(flags["init"], help="where chains start, as for `sample`: resample or prior")
    held = _settings_group(sampler, "tune", tunable())
    is_tuned = sampler is None or sampler.is_tuned
    varied = _of(held.flags, *searched(sampler.name)) if sampler and is_tuned else {}
    note = "A setting that you give is held fixed in the search." if is_tuned else NOT_TUNED
    kernel = own["kernel"] if sampler is None else Flag(own["kernel"].setting, sampler.name)
    return [
        Group("What to sample", _of(flags, "label", "temperature", "init"), "Several labels count equally."),
        Group("Sampler", {"kernel": kernel} | _of(own, "control")),
        replace(held, flags=varied, note=f"{held.note} {note}".strip()),
        Group("Length", _of(own, "budget", "num_gradients", "num_seeds", "num_fresh") | _of(flags, "num_chains")),
        Group("Computation", _of(flags, "seed", "jit", *PLACE_FLAGS)),
        _models_group(),
        Group("Output", _of(own, "out", "resume")),
    ]


def _export_groups(sampler: Sampler | None) -> list[Group]:
    own, flags = flags_of(export_options.ExportOptions), _every_run()
    served = [each for each in SAMPLERS.values() if each.is_served and sampler in (None, each)]
    settings = {name: Flag(flag.setting) for each in served for name, flag in flags_of(each.defaults).items()}
    flags["kernel"] = _changed(flags["kernel"], ANY_KERNEL, help="sampling method")
    note = f"Kernels that can be served: {' and '.join(each.name for each in SAMPLERS.values() if each.is_served)}."
    if sampler is not None:
        flags["kernel"] = Flag(flags["kernel"].setting, sampler.name)
        settings = flags_of(sampler.defaults) if sampler.is_served else {}
        note = note if sampler.is_served else f"A run of {sampler.name} cannot be served. {note}"
    settings = {name: flag for name, flag in settings.items() if name in export_options.SAMPLE_FLAGS}
    flags["num_chains"] = _changed(flags["num_chains"], help="chains that tune the step size")
    flags["seed"] = _changed(flags["seed"], help="seed of the tuning; a request has its own")
    return [
        Group("What to serve", _of(own, "labels") | _of(flags, "temperature")),
        Group("Sampler", _of(flags, "kernel", "schedule") | settings | _of(flags, "num_chains", "seed"), note),
        Group("Requests", _of(own, "num_steps", "max_steps", "num_start_draws", "batch_sizes", "batched", "xla")),
        _models_group(),
        Group("Output", _of(own, "out", "version")),
    ]


def _check_groups(sampler: Sampler | None) -> list[Group]:
    flags = _every_run()
    flags["seed"] = _changed(flags["seed"], help="seed of the latent points at which the models are checked")
    return [
        Group(
            "What to check",
            _of(flags, "label", "temperature", "seed"),
            "By default all labels are checked, or four of them if there are more than twenty.",
        ),
        _models_group(),
    ]


def _play_groups(command: str) -> Callable[[Sampler | None], list[Group]]:
    return lambda sampler: [Group("Flags", play_flags(command))]


_PLAY = (
    Command(
        "show",
        "Writes an image, a sound or a clip of a run as a file, or all of them, best first.\n"
        "Needs neither TensorFlow nor the models.",
        _play_groups("show"),
        {"run": None},
        example="python -m tfgradgen show out/goldfish-mala-0 --chain=3 --scale=8",
    ),
    Command(
        "vary",
        "Draws images, sounds or clips near one of a run. Its small steps leave the posterior invariant.",
        _play_groups("vary"),
        {"run": None},
        example="python -m tfgradgen vary out/goldfish-mala-0 --chain=3 --amount=0.3",
        end="Writes the folder of a run, with report.html. The models are those of the run: the same sha256.",
    ),
    Command(
        "morph",
        "Makes a film of a path from one draw of a run to another. The draws in between keep the class.",
        _play_groups("morph"),
        {"run": None, "first": None, "last": None},
        example="python -m tfgradgen morph out/goldfish-mala-0 3 7 --frames=48",
        end="The name of --out ends in .gif, .webp or, where ffmpeg is installed, .mp4.",
    ),
    Command(
        "film",
        "Makes a film of one chain of a run. It goes from the start through the burn-in to the last draw.",
        _play_groups("film"),
        {"run": None},
        example="python -m tfgradgen film out/goldfish-mala-0 --chain=3",
        end="The name of --out ends in .gif, .webp or, where ffmpeg is installed, .mp4. A run does not keep its\n"
        "burn-in, so the burn-in is drawn again; --burnin=false leaves it out.",
    ),
)
_ALL = (
    Command(
        "sample",
        "Draws images, sounds or clips of a class into a folder. It writes report.html (begin there),\n"
        "grid.png, plots.png, film.png, samples.npz, checkpoint.npz and run.json.",
        _sample_groups,
        {"label": None, "kernel": None},
        sample_flags,
        example="python -m tfgradgen sample --label=goldfish --kernel=mala",
        end='Conditions combine classes: --label="goldfish & !orange", "monarch | ladybug" or\n'
        '"goldfish & 0.5*orange". Parentheses group.',
    ),
    Command(
        "compare",
        "Compares samplers by the quality and diversity of their draws. All begin at the same starts and\n"
        "take the same number of gradients. The report also has the table of the original poster (Xu, Acuna\n"
        "and Duvenaud).",
        _compare_groups,
        {"labels": None},
        example="python -m tfgradgen compare --labels=goldfish,monarch --out=out/compare",
        end="Writes report.html (begin there), report.md, table.csv, report.json, curves.png, grids.png, a\n"
        "folder for each sampler (pictures/: PNGs, and sounds or clips) and the samples (cells/). If a\n"
        "sampler fails on a class, the report names it, the others are finished, and the exit code is 1.",
    ),
    Command(
        "tune",
        "Searches for the schedule with the largest effective sample size per gradient. The best one is\n"
        "compared with a control on fresh seeds.",
        _tune_groups,
        {"label": None},
        tune_options.tune_flags,
        lambda sampler: sampler.is_tuned,
        "python -m tfgradgen tune --label=goldfish,monarch --kernel=hmc --out=out/tune",
        "Writes report.html (begin there), report.md, best.yaml for `sample --schedule`, tuning.csv,\n"
        "tuning.png and study.db (of Optuna). Needs pip install 'tfgradgen[tune]'.",
    ),
    Command(
        "export",
        "Writes a SavedModel that TensorFlow Serving can serve. A label and a seed give a file. The\n"
        "step size is tuned for each label at export and then fixed.",
        _export_groups,
        {"labels": "all", "kernel": None},
        takes_fn=lambda sampler: sampler.is_served,
        example="python -m tfgradgen export --kernel=mala --labels=goldfish,monarch --out=out/served",
        end="Signatures: serving_default (label, seed), sample (with num_steps), continue (with num_steps and\n"
        "z), grid (16 draws). A row is one label and one seed, and has the same bits in any batch.",
    ),
    Command(
        "serve",
        "Serves an export on this machine, without Docker: the REST interface of TensorFlow Serving.\n\n"
        "It takes the same requests and gives the same replies, from TensorFlow alone. It is made for trying\n"
        "an export: one request is computed at a time, and there is no password.",
        lambda sampler: [Group("Flags", flags_of(serve_options.ServeOptions))],
        {"export": None},
        example="python -m tfgradgen serve --export=out/served",
    ),
    Command(
        "demo",
        "Serves a local page that draws images, sounds or clips. They appear while the chains run.\n\n"
        "One job runs at a time, others wait. Only this machine can use the page, unless --host says\n"
        "otherwise.",
        lambda sampler: [Group("Flags", flags_of(demo_options.DemoOptions)), _models_group()],
        example="python -m tfgradgen demo --open",
        end="Needs pip install 'tfgradgen[demo]'.",
    ),
    Command(
        "check",
        "Checks the models as a run would use them, and says what would go wrong.\n\n"
        "It checks shape, range and variety of the outputs; that repeated evaluations give the same bits\n"
        "and that rows do not mix; that p(class) is finite and varies; the value, gradient and scale of the\n"
        "likelihood; and XLA against graph mode. The exit code is 1 if a check fails.",
        _check_groups,
        {"label": None},
        example="python -m tfgradgen check --label=goldfish",
    ),
    Command(
        "diagnose",
        "Grades a run from its files: are its draws those of the posterior, and are its means good to the\n"
        "errors shown? Says what to do about each warning, and shows tables of the chains and statistics.",
        lambda sampler: [Group("Flags", flags_of(DiagnoseFlags) | _of(_every_run(), "strict"))],
        {"folder": None},
        example="python -m tfgradgen diagnose out/goldfish-mala-0",
    ),
    *_PLAY,
    Command(
        "kernels",
        "Lists the samplers and what each is good for.\n\n"
        "The columns are: the name for --kernel; the kind (chains, independent draws, particles or an\n"
        "ascent); and whether the draws have the posterior distribution.",
        lambda sampler: [],
        example="python -m tfgradgen kernels",
    ),
    Command(
        "labels",
        "Lists the classes of a classifier: index, WordNet id, name.",
        lambda sampler: [_models_group("models", "classifier", *CLASSIFIER_FLAGS, "allow_unknown_ops")],
    ),
    Command(
        "models",
        "Lists the shipped models: their folders, inputs, outputs and sha256.",
        lambda sampler: [Group("Flags", {"models": Flag(replace(DECLARED["models"].setting, shown="speech", help=OF_SET))})],
    ),
    Command(
        "completion",
        "Prints a script that completes commands, flags, kernels and labels in a shell.\n\n"
        "In ~/.bashrc: source <(tfgradgen completion bash). In ~/.zshrc, after compinit: source <(tfgradgen\n"
        "completion zsh). In fish: tfgradgen completion fish > ~/.config/fish/completions/tfgradgen.fish",
        lambda sampler: [Group("Flags", flags_of(CompletionFlags))],
        {"shell": None},
        example="python -m tfgradgen completion bash",
    ),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _ALL}
