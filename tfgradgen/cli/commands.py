"""What Fire shows and calls. Every flag is checked before anything runs: Fire itself rejects a mistyped one only after."""

import inspect
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import fire

import tfgradgen
from tfgradgen.cli.arguments import TEXTS, evaluated, normalized
from tfgradgen.cli.model_options import CLASSIFIER_FLAGS, MODEL_FLAGS
from tfgradgen.cli.options import FLAGS, check_flags, check_known, parse_bool, parse_path, parse_sample
from tfgradgen.cli.progress import stages_shown
from tfgradgen.cli.system import ended_by_signals, prepare_home, prepare_streams, stopped
from tfgradgen.cli.terminal import note, say
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.parsing import reason
from tfgradgen.core.quiet import quiet_matplotlib, start_tensorflow
from tfgradgen.core.text import as_text, shell_word, value_text

CHECK_FLAGS = ("label", *MODEL_FLAGS, "temperature", "seed")


def command(fn: Callable[..., None]) -> Callable[..., None]:
    """`fn` for Fire, with values as `arguments` reads them."""
    with_texts = fire.decorators.SetParseFns(**dict.fromkeys(TEXTS, str))(fn)
    return fire.decorators.SetParseFn(evaluated)(with_texts)


@command
def sample(label: Any = None, kernel: Any = None, *extra: Any, **flags: Any) -> None:
    """Draws images of a class and writes grid.png, plots.png, film.png, samples.npz, checkpoint.npz and run.json into a
    folder.

    Example: python -m tfgradgen sample --label=goldfish --kernel=mala

    Args:
      label: a class name, WordNet id or index; several as a,b,c; or all. `labels` lists them.
      kernel: rejection (exact, independent draws), mala, hmc, split_hmc, nuts, chees, local_global, replica_exchange,
        elliptical_slice, smc (which estimates p(class) too), or map (the baseline: modes, no draws). By default mala, or that
        of --schedule.
        --num_chains=16            independent chains, one tile each in grid.png
        --num_results=N            kept draws of each chain (mala 264, hmc 50, rejection 40, ...), for smc particles
        --num_burnin_steps=N       discarded first steps (mala 36, hmc 50, ...)
        --num_adaptation_steps=N   how many of the burn-in steps tune the step size, one for all chains (about three quarters)
        --schedule=FILE            YAML with the settings of a kernel, as `tune` writes it; flags given as well override it
        --step_size=X              initial distance of one step in z, the same unit for every kernel; for map a fixed one
        --target_accept_prob=X     acceptance to tune for (mala 0.44, hmc 0.6, ...)
        --adaptation=dual_averaging  how it is tuned: dual_averaging, or simple (multiplied or divided), with
        --exploration_shrinkage=0.2, --decay_rate=0.75, --step_count_smoothing=10    of dual averaging, about
        --adaptation_rate=0.1      of simple: by 1 + adaptation_rate
        --num_leapfrog_steps=3     gradients in one step of hmc, split_hmc (4), and of each replica in replica_exchange
        --max_leapfrog_steps=16    chees: at most so many
        --max_tree_depth=4         nuts: at most 2 ** max_tree_depth gradients in one step
        --num_global_draws=16      local_global: fresh prior draws in each global move
        --num_local_steps=1        local_global: mala steps after each global move
        --num_replicas=4           replica_exchange: powers of the likelihood
        --min_inverse_temperature=0.1  replica_exchange: the smallest of them
        --num_mutations=4          smc: mala steps at each power of the likelihood
        --ess_share=0.5            smc: particles that stay effective from one power to the next
        --class_reg=0              mala, map: weight of a pull to the middle of the class's exact draws, in their deviations
        --optimizer=adam           map: adam, or normalized (steps of length step_size)
        --objective=log_prob       map: what is raised, log_prob or the class's logit
        --l2_decay=0               map: share of z taken off in each step
        --clip_sigma=0             map: bound on abs(z), in standard deviations (0: none)
        --clip_around=prior        map: centre of that bound: prior, or class (per coordinate)
        --temperature=1.0          the likelihood enters as likelihood ** (1 / temperature)
        --seed=0                   same seed, machine and backend: the same samples.npz, bit for bit; each label draws by
                                   random numbers of its own, the same alone and among others
        --jit=auto                 XLA: auto (where there is a GPU), true or false
        --init=resample            chains start at exact draws of the class, found among 256 prior draws each, or at likely
                                   ones where the class is too rare; prior: at any prior draw; PICTURE: all at that
                                   photograph's latent point, by the generator's own encoder (BigBiGAN's)
        --gradient_precision=float32  bfloat16: the gradients' convolutions; the law stays exact, values keep their bits
        --out=FOLDER               by default out/<label>-<kernel>-<seed>
        --overwrite                replace an earlier run in that folder
        --resume                   go on with an interrupted run, or make a finished one longer with a larger --num_results;
                                   the other flags are the same. With --overwrite too, what is of another run is replaced
        --strict                   end with exit code 1 where something speaks against a run
        --netcdf                   write chains.nc too, for ArviZ: pip install 'tfgradgen[netcdf]'

      and of the models, by default those that come with tfgradgen; a MODEL is a folder, an archive (.tar.gz), a TF-Hub URL or a
      Kaggle Models handle. What a model and its family do not tell is guessed, and said:

        --generator=MODEL
        --classifier=MODEL         several as A,B: their classes compose in --label, NAME@2 is one of the second
        --generator_signature=NAME, --classifier_signature=NAME    which function of a model with several; NAME:OUTPUT
        --generator_tags=A,B, --classifier_tags=A,B                which of its graphs
        --generator_range=0,1, --classifier_range=0,1              of its images; where nothing tells that
                                   of the classifier, the usual range in which it tells the generator's images apart best
        --generator_prior=normal   of its latent point: normal, truncated_normal (2 deviations) or uniform (-1 to 1)
        --latent_dim=N             width of its latent point
        --truncation=1             BigGAN's, above 0 to 1
        --generator_class=target   of a class-conditional generator: target, the class asked for; uniform, one more coordinate
                                   picks any; latent, a softmax of one more coordinate a class
        --generator_class_input=NAME  which of its inputs is the class, where shapes and names do not tell
        --generator_class_slice=32:42  which coordinates of z are a one-hot class; :10 the first ten, -10: the last
        --num_classes=N            how many classes it has, where its class input is a number
        --generator_layout=channels_last, --classifier_layout=channels_last    or channels_first, [B, channels, height, width]
        --classifier_size=N        or HEIGHT,WIDTH of its input
        --classifier_output=logits logits, probabilities (that sum to one) or scores (one a class, for itself)
        --classifier_channels=rgb  or grey: shows it the luma of coloured images
        --classifier_labels=FILE   JSON, or a name a line; imagenet for those of ImageNet. By default a labels.txt or the like
                                   in or beside the model's folder
        --discriminator_weight=0   adds so many times a discriminator's log-odds of `natural` to the target
        --discriminator=MODEL
        --max_batch=N              so many pictures at a time go through the models, where memory is short; same results
        --allow_unknown_ops        load models although they hold operations that image models have no use for

    Conditions: --label="goldfish & !orange", "monarch | ladybug", "goldfish & 0.5*orange", with parentheses.
    A class whose own name holds a comma or an operator is named as it is.
    """
    _no_extra(extra)
    check_flags("sample", flags, FLAGS)
    if label is None:
        raise fail("label", "a class", "none", "give --label=NAME; python -m tfgradgen labels lists them")
    options = parse_sample({"label": label, "kernel": kernel, **flags})
    from tfgradgen.cli.early import check_sample

    check_sample(options)
    _load_tensorflow()
    from tfgradgen.cli.sample import run_sample

    if run_sample(options) and options.strict:
        raise SystemExit(1)


@command
def labels(*extra: Any, **flags: Any) -> None:
    """Lists the classes of a classifier: index, WordNet id, name.

    Args:
      flags: --classifier=MODEL, by default the one that comes with tfgradgen; --classifier_labels and the like,
        --allow_unknown_ops.
    """
    _no_extra(extra)
    check_flags("labels", flags, ("classifier", *CLASSIFIER_FLAGS, "allow_unknown_ops"))
    from tfgradgen.cli.listing import list_labels

    list_labels(flags)


@command
def models(*extra: Any, **flags: Any) -> None:
    """Shows the models that come with tfgradgen: where they lie, what they take and give, and their sha256."""
    _no_extra(extra)
    check_flags("models", flags, ())
    from tfgradgen.cli.listing import list_models

    list_models()


@command
def check(label: Any = None, *extra: Any, **flags: Any) -> None:
    """Looks at a generator and a classifier as a run would use them, and says what would go wrong.

    Shape, range and variety of the images, the same bits from repeated evaluations, rows that do not mix, a p(class) that is
    finite and varies; the likelihood's value and gradient without the prior's, the scales of the two gradients, XLA compared
    with graph mode. Ends with exit code 1 where there is a fault.

    Example: python -m tfgradgen check --label=goldfish

    Args:
      label: as for `sample`; by default all, or four of them where there are more than twenty.
      flags: those of the models, --temperature and --seed, as for `sample`.
    """
    _no_extra(extra)
    check_flags("check", flags, CHECK_FLAGS)
    options = parse_sample({"label": label, "kernel": "mala", **flags})
    from tfgradgen.cli.early import check_check

    check_check(options)
    _load_tensorflow()
    from tfgradgen.cli.check import run_check

    if not run_check(options):
        raise SystemExit(1)


@command
def compare(labels: Any = None, *extra: Any, **flags: Any) -> None:
    """Says which method gives natural, diverse pictures of the classes: all of them from the same starts, at the same number of
    gradients, by many measures, with the poster's own table beside.

    Example: python -m tfgradgen compare --labels=goldfish,monarch,beacon,pizza --out=out/compare

    Args:
      labels: as label of `sample`: names, WordNet ids or indices, a,b,c, or all.
        --kernels=a,b,c            methods of `sample`; NAME+reg for map and mala with class-specific regularization. By default
                                   map+reg,mala+reg,mala,hmc (the poster's four),map,split_hmc,smc,rejection
        --num_gradients=300        of each chain; every measure is taken at 10, 30, 100, 300, ... up to there
        --num_chains=16            chains of each method and label, one picture each
        --class_reg=1              weight of the regularization in the +reg methods
        --seed=0                   as for `sample`, like the next four
        --init=resample
        --jit=auto
        --generator=MODEL          with --latent_dim, --truncation, --generator_signature, --generator_tags, --generator_range,
                                   --generator_prior, --generator_class, --generator_class_input, --generator_class_slice,
                                   --num_classes, --generator_layout as for `sample`
        --classifier=MODEL         with --classifier_signature, --classifier_tags, --classifier_range, --classifier_size,
                                   --classifier_output, --classifier_labels, --classifier_channels, --classifier_layout
        --max_batch=N
        --allow_unknown_ops
        --judge=MODEL              names classes and guides no chain, with a signature `features`
        --discriminator=MODEL      a classifier with a label `natural`, or BigBiGAN or compare_gan with their discriminators
        --photographs=FOLDER       held-out photographs, FOLDER/<label>/*.jpg; by default what the shipped judge saw of its own
        --out=FOLDER               by default out/compare
        --resume                   go on in that folder: finished cells (method x label) are kept

    Writes report.md (begin there), table.csv, report.json, curves.png, grids.png, a folder of PNGs for each method (pictures/)
    and what was sampled (cells/). A cell that fails is named, the rest stands, and the exit code is 1.
    """
    _no_extra(extra)
    if labels is None:
        raise fail("labels", "classes", "none", "give --labels=a,b,c or all; python -m tfgradgen labels lists them")
    from tfgradgen.cli.compare_options import parse_compare

    options = parse_compare({"labels": labels, **flags})
    from tfgradgen.cli.early import check_compare

    check_compare(options)
    _load_tensorflow()
    from tfgradgen.cli.compare import run_compare

    if run_compare(options):
        raise SystemExit(1)


@command
def tune(label: Any = None, *extra: Any, **flags: Any) -> None:
    """Searches the schedule that gives a kernel most effective draws for its gradients, and holds it against a control on fresh
    seeds.

    Example: python -m tfgradgen tune --label=goldfish,monarch --kernel=hmc --budget=20000 --out=out/tune

    Args:
      label: as for `sample`; several count alike.
        --kernel=hmc               or mala, split_hmc, nuts, chees, local_global, replica_exchange
        --budget=20000             gradients a chain, of all trials together
        --num_gradients=1000       gradients a chain of one run, burn-in and adaptation among them
        --num_seeds=1              runs of each label that a trial gets, if it stays in so long
        --num_fresh=4              runs of each label on fresh seeds, of the best and of the control, on top of --budget
        --control=FILE             the schedule to beat; by default the kernel's own
        --step_size=0.3            or any other setting of the kernel, as for `sample`: holds it fixed in all that is proposed
        --num_chains=8             of each run
        --temperature=1.0          as for `sample`, like --seed=0, --jit=auto
        --init=resample            or prior
        --out=FOLDER               by default out/tune
        --resume                   go on with the search in that folder, further with a larger --budget

      and those of the models, as for `sample`:

        --generator=MODEL          with --latent_dim, --truncation, --generator_signature, --generator_tags, --generator_range,
                                   --generator_prior, --generator_class, --generator_class_input, --generator_class_slice,
                                   --num_classes, --generator_layout
        --classifier=MODEL         with --classifier_signature, --classifier_tags, --classifier_range, --classifier_size,
                                   --classifier_output, --classifier_labels, --classifier_channels, --classifier_layout
        --discriminator_weight=0, --discriminator=MODEL, --max_batch=N, --allow_unknown_ops

    Writes report.md (begin there), best.yaml for `sample --schedule`, tuning.csv, tuning.png and study.db, which is Optuna's.
    Needs pip install 'tfgradgen[tune]'.
    """
    _no_extra(extra)
    if label is None:
        raise fail("label", "a class", "none", "give --label=NAME; python -m tfgradgen labels lists them")
    from tfgradgen.cli.tune_options import parse_tune

    options = parse_tune({"label": label, **flags})
    from tfgradgen.cli.early import check_tune

    check_tune(options)
    _load_tensorflow()
    from tfgradgen.cli.tune import run_tune

    run_tune(options)


@command
def diagnose(folder: Any = None, *extra: Any, **flags: Any) -> None:
    """Says from the files of a run whether to trust it: per chain, per statistic, and what to do.

    Example: python -m tfgradgen diagnose out/goldfish-mala-0

    Args:
      folder: what `sample` wrote.
      flags: --strict ends with exit code 1 where something speaks against the run.
    """
    _no_extra(extra)
    check_flags("diagnose", flags, ("folder", "strict"))
    strict = parse_bool("strict", flags.get("strict", False))
    if folder is None:
        raise fail(
            "folder", "the folder of a run", "none", "give it, for example: python -m tfgradgen diagnose out/goldfish-mala-0"
        )
    path = parse_path("folder", folder)
    from tfgradgen.cli.diagnose import run_diagnose

    if run_diagnose(path) and strict:
        raise SystemExit(1)


@command
def export(labels: Any = "all", kernel: Any = None, *extra: Any, **flags: Any) -> None:
    """Writes a SavedModel that TF Serving serves as it is: a label and a seed in, a picture out.

    Example: python -m tfgradgen export --kernel=mala --labels=goldfish,monarch --out=out/served

    Args:
      labels: the classes that can be asked for, as label of `sample`; by default all.
      kernel: mala or hmc, by default mala or that of --schedule; its step size is tuned for each label now and frozen.
        --out=BASE                 BASE/<version>/ is the model; beside it what starts a server, and two clients
        --version=N                by default the next that is free; one that exists is refused
        --num_steps=N              transitions of a picture (mala 100, hmc 33: about 100 gradients)
        --max_steps=N              most that a request can ask for, by default ten times as many
        --num_start_draws=64       prior draws that a chain's start is picked from
        --batch_sizes=1,4,16       what the server fills batches up to
        --xla                      a further signature serving_xla, for servers that may compile; the others need no XLA
        --schedule=FILE            settings that `tune` wrote; flags given as well override it
        --step_size=X              where tuning begins; as for `sample`, like the next five
        --target_accept_prob=X
        --num_leapfrog_steps=N     of hmc
        --num_chains=16            that tune
        --temperature=1
        --seed=0                   of tuning; a request has its own
        --generator=MODEL          with --latent_dim, --truncation, --generator_signature, --generator_tags, --generator_range,
                                   --generator_prior, --generator_class, --generator_class_input, --generator_class_slice,
                                   --num_classes, --generator_layout as for `sample`
        --classifier=MODEL         with --classifier_signature, --classifier_tags, --classifier_range, --classifier_size,
                                   --classifier_output, --classifier_labels, --classifier_channels, --classifier_layout
        --discriminator=MODEL      with --discriminator_weight
        --max_batch=N
        --allow_unknown_ops

    Signatures: serving_default (label, seed), sample (with num_steps), continue (with num_steps and z), grid (a sheet of 16).
    A row is one label and one seed, and the same bits in any batch.
    """
    _no_extra(extra)
    from tfgradgen.cli.export_options import parse_export

    options = parse_export({"labels": labels, "kernel": kernel, **flags})
    from tfgradgen.cli.early import check_export

    check_export(options)
    _load_tensorflow()
    from tfgradgen.cli.export import run_export

    run_export(options)


COMMANDS = {
    **{"sample": sample, "compare": compare, "tune": tune, "export": export, "check": check, "diagnose": diagnose},
    **{"labels": labels, "models": models},
}


def _load_tensorflow() -> None:
    note("doing    loading TensorFlow")
    start_tensorflow()


def _no_extra(extra: tuple[Any, ...]) -> None:
    if extra:
        raise fail("arguments", "flags such as --seed=1", value_text(extra[0]), "write it as --flag=value")


def main(argv: list[str] | None = None) -> None:
    """Runs one command. A user's error is one line on stderr and exit code 2; a signal ends it with 128 and its number."""
    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    prepare_home()
    quiet_matplotlib()
    with ended_by_signals(), stages_shown():
        try:
            run(argv)
        except UserError as error:
            note(f"tfgradgen: {error.command_text}" + (f" Go on with: {command_again(argv)}" if error.can_resume else ""))
            raise SystemExit(2) from None
        except OSError as error:  # the disk is full, or a file is not ours to read
            where = f"{error.filename}: " if error.filename else ""
            note(f"tfgradgen: {as_text(where + reason(error))}.")
            raise SystemExit(2) from None
        except KeyboardInterrupt as interrupt:
            end = stopped(interrupt)
            how = "interrupted" if end.signum == signal.SIGINT else f"ended by {signal.Signals(end.signum).name}"
            then = f": {command_again(argv)}" if end.can_resume else "."
            note(f"tfgradgen: {how}; {end.hint or 'nothing new was kept'}{then}")
            raise SystemExit(128 + end.signum) from None


def run(argv: list[str]) -> None:
    """Shows help or the version, or has Fire call the command."""
    os.environ.setdefault("PAGER", "cat")
    first = argv[0] if argv else "help"
    first = first.partition("=")[0] if first.startswith("-") else first
    wants_help = any(word.partition("=")[0] in ("-h", "--help") for word in argv)
    if first in ("version", "--version"):
        say(f"tfgradgen {tfgradgen.__version__}")
    elif first in ("help", "-h", "--help") or (wants_help and first in COMMANDS):
        named = [word for word in argv if not word.startswith("-") and word != "help"]
        say(help_text(named[0]) if named else overview())
    else:
        check_known("command", first, COMMANDS, "python -m tfgradgen --help")
        for word in ("-", "--"):
            if word in argv:
                raise fail("arguments", "flags such as --seed=1", f"a lone {word}", "leave it out")
        fire.Fire(COMMANDS, command=normalized(argv), name="python -m tfgradgen")


def help_text(name: str) -> str:
    """What `NAME --help` shows; Fire would fold the table of flags into one paragraph."""
    check_known("command", name, COMMANDS, "python -m tfgradgen --help")
    return inspect.getdoc(COMMANDS[name]) or ""


def overview() -> str:
    """What `--help` shows: the commands, each with the first sentence of its help."""
    lines = {name: " ".join(help_text(name).split("\n\n")[0].split()) for name in COMMANDS}
    return "\n".join(
        [
            f"tfgradgen {tfgradgen.__version__}: class-conditional images from a generator and a classifier, by MCMC",
            "",
            "Usage: python -m tfgradgen COMMAND [--flag=value ...]",
            "",
            *(f"  {name:9s} {re.split(r'[.:](?: |$)', line)[0]}." for name, line in lines.items()),
            "",
            "COMMAND --help shows the flags of a command, --version the version.",
            "Begin with: python -m tfgradgen sample --label=goldfish --kernel=mala",
        ]
    )


def command_again(argv: list[str]) -> str:
    """The line for a shell that goes on with what `argv` began."""
    words = [word for word in normalized(argv) if word.partition("=")[0] != "--resume"]
    return " ".join(["python -m tfgradgen", *map(shell_word, words), "--resume"])
