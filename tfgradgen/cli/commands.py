"""The functions that Fire calls and the help that users see, both generated from the declared settings.

Every flag is checked before anything runs; Fire itself rejects a mistyped flag only afterwards.
"""

import inspect
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import fire

import tfgradgen
from tfgradgen.cli.arguments import evaluated, normalized
from tfgradgen.cli.command_flags import COMMANDS, Command
from tfgradgen.cli.details import show_device, timed
from tfgradgen.cli.flags import check_flags, check_known, parse_path, shown_groups
from tfgradgen.cli.options import parse_sample
from tfgradgen.cli.play_options import KINDS as PLAY
from tfgradgen.cli.progress import stages_shown
from tfgradgen.cli.system import ended_by_signals, prepare_home, prepare_streams, stopped
from tfgradgen.cli.terminal import VOLUME_FLAGS, complain, give, note, note_traceback, volume, volume_of
from tfgradgen.core.checks import UserError, check_choice, fail
from tfgradgen.core.parsing import reason
from tfgradgen.core.quiet import quiet_matplotlib, start_tensorflow
from tfgradgen.core.text import as_text, shell_word, value_text
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.registry import SAMPLERS

KINDS = {"real": float, "whole": int, "switch": bool, "path": str, "text": str, "choice": str}  # type per kind of setting


def _check_asked(flags: dict[str, Any], flag: str = "label", example: str = "NAME") -> None:
    """Raise `UserError` unless `flags` have `flag`, which names classes, or a text."""
    if flags[flag] is None and flags.get("text") is None:
        chosen = "".join(f" --{name}={shell_word(flags[name])}" for name in ("models", "classifier") if flags.get(name))
        remedy = f"give --{flag}={example} or --text=WORDS; python -m tfgradgen labels{chosen} lists classes"
        raise fail(flag, "a class", "none", remedy)


def sample(flags: dict[str, Any]) -> None:
    """Run the `sample` command with parsed flags."""
    command = COMMANDS["sample"]
    if flags.get("like") is not None:
        from tfgradgen.cli.like import with_like

        flags = {"label": None} | with_like(flags, parse_path("like", flags["like"]), command.texts())
    _check_asked(flags)
    options = parse_sample(flags, auto.NAME)
    from tfgradgen.cli.early import check_sample

    check_sample(options)
    _load_tensorflow()
    from tfgradgen.cli.sample import run_sample

    if run_sample(options) and options.strict:
        raise SystemExit(1)


def kernels(flags: dict[str, Any]) -> None:
    """Run the `kernels` command with parsed flags."""
    from tfgradgen.cli.listing import list_kernels

    list_kernels()


def labels(flags: dict[str, Any]) -> None:
    """Run the `labels` command with parsed flags."""
    from tfgradgen.cli.listing import list_labels

    list_labels(flags)


def models(flags: dict[str, Any]) -> None:
    """Run the `models` command with parsed flags."""
    from tfgradgen.cli.listing import list_models

    list_models(flags.get("models"))


def completion(flags: dict[str, Any]) -> None:
    """Run the `completion` command with parsed flags."""
    if flags["shell"] is None:
        raise fail("shell", "the name of a shell", "none", "give it, for example: python -m tfgradgen completion bash")
    from tfgradgen.cli.completion import print_completion

    print_completion(flags["shell"])


def check(flags: dict[str, Any]) -> None:
    """Run the `check` command with parsed flags."""
    options = parse_sample(flags)
    from tfgradgen.cli.early import check_check

    check_check(options)
    _load_tensorflow()
    from tfgradgen.cli.check import run_check

    if not run_check(options):
        raise SystemExit(1)


def compare(flags: dict[str, Any]) -> None:
    """Run the `compare` command with parsed flags."""
    _check_asked(flags, "labels", "A,B")
    from tfgradgen.cli.compare_options import parse_compare

    options = parse_compare(flags)
    from tfgradgen.cli.early import check_compare

    check_compare(options)
    _load_tensorflow()
    from tfgradgen.cli.compare import run_compare

    if run_compare(options):
        raise SystemExit(1)


def tune(flags: dict[str, Any]) -> None:
    """Run the `tune` command with parsed flags."""
    _check_asked(flags)
    from tfgradgen.cli.tune_options import parse_tune

    options = parse_tune(flags)
    from tfgradgen.cli.early import check_tune

    check_tune(options)
    _load_tensorflow()
    from tfgradgen.cli.tune import run_tune

    run_tune(options)


def serve(flags: dict[str, Any]) -> None:
    """Run the `serve` command with parsed flags."""
    from tfgradgen.cli.serve_options import find_export, parse_serve

    options = parse_serve(flags)
    from tfgradgen.cli.serve import bind, limits_of, run_serve

    export = find_export(options)
    server = bind(options, limits_of(export))  # before the slow import: the port may be taken
    _load_tensorflow()
    run_serve(options, export, server)


def demo(flags: dict[str, Any]) -> None:
    """Run the `demo` command with parsed flags."""
    from tfgradgen.cli.demo_options import parse_demo

    options = parse_demo(flags)
    from tfgradgen.cli.demo import bind, run_demo
    from tfgradgen.cli.early import check_models

    check_models(options.models)
    listener = bind(options)  # before the slow import: the port may be taken
    _load_tensorflow()
    run_demo(options, listener)


def diagnose(flags: dict[str, Any]) -> None:
    """Run the `diagnose` command with parsed flags."""
    command = COMMANDS["diagnose"]
    strict, as_json = (command.flags()[name].setting.parsed(name, flags.get(name, False)) for name in ("strict", "json"))
    if flags["folder"] is None:
        raise fail(
            "folder", "the folder of a run", "none", "give it, for example: python -m tfgradgen diagnose out/goldfish-mala-0"
        )
    path = parse_path("folder", flags["folder"])
    from tfgradgen.cli.diagnose import run_diagnose

    if run_diagnose(path, as_json) and strict:
        raise SystemExit(1)


def export(flags: dict[str, Any]) -> None:
    """Run the `export` command with parsed flags."""
    from tfgradgen.cli.export_options import parse_export

    options = parse_export(flags)
    from tfgradgen.cli.early import check_export

    check_export(options)
    _load_tensorflow()
    from tfgradgen.cli.export import run_export

    run_export(options)


def _play(name: str) -> Callable[[dict[str, Any]], None]:
    """Return the function that runs `show`, `vary`, `morph` or `film` with parsed flags."""

    def run_command(flags: dict[str, Any]) -> None:
        from tfgradgen.cli.play import PLAY_FNS

        PLAY_FNS[name](flags)

    return run_command


RUN_FNS: dict[str, Callable[[dict[str, Any]], None]] = {
    **{
        fn.__name__: fn
        for fn in (sample, compare, tune, export, serve, demo, check, diagnose, kernels, labels, models, completion)
    },
    **{name: _play(name) for name in PLAY},
}


def fire_function(command: Command) -> Callable[..., None]:
    """Return the function that Fire calls for `command`. Its signature has the declared flags; its docstring is the help."""

    def call(*args: Any, **flags: Any) -> None:
        placed = len(command.places)
        if args[placed:]:
            raise fail("arguments", "flags such as --seed=1", value_text(args[placed]), "write it as --flag=value")
        given = dict(zip(command.places, args, strict=False)) | flags
        check_flags(command.name, given, command.known())
        RUN_FNS[command.name](given)

    places, flags = command.places, command.flags()
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=places[name]) for name in places]
    parameters.append(inspect.Parameter("extra", inspect.Parameter.VAR_POSITIONAL))
    parameters += [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=flag.default, annotation=KINDS.get(flag.setting.kind, Any)
        )
        for name, flag in flags.items()
        if name not in places
    ]
    parameters.append(inspect.Parameter("flags", inspect.Parameter.VAR_KEYWORD))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__name__, call.__doc__ = command.name, help_text(command.name)
    with_texts = fire.decorators.SetParseFns(**dict.fromkeys(command.texts(), str))(call)
    parsed: Callable[..., None] = fire.decorators.SetParseFn(evaluated)(with_texts)
    return parsed


def _load_tensorflow() -> None:
    note("doing    loading TensorFlow")
    start_tensorflow()
    show_device()


def main(argv: list[str] | None = None) -> None:
    """Run a command.

    Args:
      argv: Words of the command line; None for those of this process.

    Raises:
      SystemExit: The command failed. The code is 2 after a `UserError` or an OSError, which is printed to stderr as one line,
        and 128 plus the number of the signal after a signal.
    """
    argv = typed = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    prepare_home()
    quiet_matplotlib()
    with ended_by_signals(), stages_shown():
        try:
            chosen, argv = volume_of(argv)
            with volume(chosen), timed():
                run(argv)
        except UserError as error:
            note_traceback(error)
            complain(f"tfgradgen: {error.command_text}" + (f" Go on with: {command_again(typed)}" if error.can_resume else ""))
            raise SystemExit(2) from None
        except OSError as error:  # for example a full disk, or a file that may not be read
            note_traceback(error)
            where = f"{error.filename}: " if error.filename else ""
            complain(f"tfgradgen: {as_text(where + reason(error))}.")
            raise SystemExit(2) from None
        except KeyboardInterrupt as interrupt:
            end = stopped(interrupt)
            how = "interrupted" if end.signum == signal.SIGINT else f"ended by {signal.Signals(end.signum).name}"
            then = f": {command_again(typed)}" if end.can_resume else "."
            complain(f"tfgradgen: {how}; {end.hint or 'nothing new was kept'}{then}")
            raise SystemExit(128 + end.signum) from None


def run(argv: list[str]) -> None:
    """Print the help or the version, or call the command through Fire."""
    os.environ.setdefault("PAGER", "cat")
    first = argv[0] if argv else "help"
    first = first.partition("=")[0] if first.startswith("-") else first
    if first in ("version", "--version"):
        give(f"tfgradgen {tfgradgen.__version__}")
    elif first == "help" or any(map(_is_help, argv)):
        give(help_asked(argv))
    else:
        check_known("command", argv[0], COMMANDS, "python -m tfgradgen --help")
        for word in ("-", "--"):
            if word in argv:
                raise fail("arguments", "flags such as --seed=1", f"a lone {word}", "leave it out")
        words = normalized(argv, COMMANDS[first].texts())
        fire.Fire({first: fire_function(COMMANDS[first])}, command=words, name="python -m tfgradgen")


def _is_help(word: str) -> bool:
    return word.partition("=")[0] in ("-h", "--help")


def help_asked(argv: list[str]) -> str:
    """Return the help that `argv` asks for: that of its command, and of its kernel if one is named; otherwise the overview.

    Raises:
      UserError: The command, one of its flags or the kernel does not exist.
    """
    words = normalized([word for word in argv if not _is_help(word) and word not in ("-", "--")])
    flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
    name, *placed = [word for word in words if not word.startswith("--")][words[:1] == ["help"] :] or [""]
    if not name:
        return overview()
    check_known("command", name, COMMANDS, "python -m tfgradgen --help")
    check_flags(name, flags, COMMANDS[name].known())
    kernel = (dict(zip(COMMANDS[name].places, placed, strict=False)) | flags).get("kernel")
    return help_text(name, None if kernel == "True" else kernel)  # --kernel without a value


def help_text(name: str, kernel: str | None = None) -> str:
    """Return the help of the command `name`: its flags in groups, including those of `kernel` if it is given.

    Raises:
      UserError: The command or the kernel does not exist.
    """
    check_known("command", name, COMMANDS, "python -m tfgradgen --help")
    command = COMMANDS[name]
    known = (*SAMPLERS, auto.NAME) if name == "sample" else SAMPLERS
    sampler = None if kernel is None or check_choice("kernel", kernel, known) == auto.NAME else SAMPLERS[kernel]
    takes = sampler is not None and command.takes_fn(sampler)
    line = re.sub(r"--kernel=\w+", f"--kernel={kernel}", command.example) if takes else command.example
    example = ["", f"Example: {line}"] if line else []
    end = ["", *command.end.splitlines()] if command.end else []
    return "\n".join([*command.about.splitlines(), *example, *shown_groups(command.groups_fn(sampler)), *end])


def overview() -> str:
    """Return the text of `--help`: the commands, each with the first sentence of its help."""
    lines = {name: " ".join(command.about.split()) for name, command in COMMANDS.items()}
    return "\n".join(
        [
            f"tfgradgen {tfgradgen.__version__}: images, sounds and clips of a class, from a generator and a classifier, "
            "by MCMC",
            "",
            "Usage: python -m tfgradgen COMMAND [--flag=value ...]",
            "",
            *(f"  {name:10s} {re.split(r'[.:](?: |$)', line)[0]}." for name, line in lines.items()),
            "",
            "COMMAND --help shows the flags of a command, --version the version.",
            "-q prints only the last line of the result, warnings and errors; -v also versions, device and times.",
            "With TFGRADGEN_DEBUG=1 an error shows its traceback, too.",
            "Begin with: python -m tfgradgen sample --label=goldfish --kernel=mala",
        ]
    )


def command_again(argv: list[str]) -> str:
    """Return the shell command that resumes the run that `argv` started."""
    _, others = volume_of(argv)
    words = [word for word in normalized(others) if word.partition("=")[0] != "--resume"]
    return " ".join(
        ["python -m tfgradgen", *map(shell_word, words), "--resume", *(word for word in argv if word in VOLUME_FLAGS)]
    )
