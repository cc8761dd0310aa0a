"""The `completion` command: a script for a shell that completes commands, flags, and values such as kernels and labels.

The script is text and does not call tfgradgen, so that the tab key responds at once. It completes the command
`tfgradgen`, because completions of `python` belong to other programs.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfgradgen.cli.command_flags import COMMANDS, Command
from tfgradgen.cli.flags import flags_of
from tfgradgen.cli.terminal import give
from tfgradgen.core.checks import check_choice
from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.loading.metadata import parse_labels, read_metadata
from tfgradgen.models.shipped import default_model

SHELLS = ("bash", "zsh", "fish")
GLOBAL = ("--help", "-q", "-v")
_PLAIN = re.compile(r"[\w.-]+", re.ASCII)  # values that need no quotes in any of the shells


def print_completion(shell: str) -> None:
    """Print the script for `shell`.

    Raises:
      UserError: There is none for it.
    """
    scripts = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
    give(scripts[check_choice("shell", shell, SHELLS)]().rstrip(), is_exact=True)


def words_of(command: Command) -> dict[str, tuple[str, ...] | None]:
    """Return the flags of a command; each with the values it can have, () for any other value, None for a switch."""
    settings = {name: flag.setting for name, flag in command.flags().items()}
    for sampler in SAMPLERS.values():
        settings |= {name: flag.setting for name, flag in flags_of(sampler.defaults).items()}
    settings |= {name: flag.setting for name, flag in flags_of(RunConfig).items()}
    found: dict[str, tuple[str, ...] | None] = {}
    for name in command.known():
        setting = settings.get(name)
        values = _VALUES_FN[name](command) if name in _VALUES_FN else _choices(setting.choices) if setting else ()
        found[name] = None if setting is not None and setting.kind == "switch" else values
    return found


def _choices(choices: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(choice).lower() for choice in choices if choice != "given")


def _kernels(command: Command) -> tuple[str, ...]:
    taken = [name for name, sampler in SAMPLERS.items() if command.takes_fn(sampler)]
    return (auto.NAME, *taken) if command.name == "sample" else tuple(taken)


def _labels(command: Command) -> tuple[str, ...]:
    """Return the labels of the shipped classifier, and `all`; those of another one cannot be known here."""
    labels = parse_labels(read_metadata(default_model("classifier")).get("labels", []), "labels of the shipped classifier")
    return ("all", *(label.name for label in labels if _PLAIN.fullmatch(label.name)))


_VALUES_FN = {"kernel": _kernels, "kernels": _kernels, "label": _labels, "labels": _labels}


def _flags(words: Mapping[str, tuple[str, ...] | None]) -> list[str]:
    """Return the flags as they are typed: with `=` if they take a value."""
    return [*(f"--{name}" if values is None else f"--{name}=" for name, values in words.items()), *GLOBAL]


def _typed(command: Command) -> tuple[str, ...]:
    """Return what can follow the command without a flag."""
    if command.name == "completion":
        return SHELLS
    return _labels(command) if next(iter(command.places), "") in ("label", "labels") else ()


def bash_script() -> str:
    """Return the script for bash 4 and later."""
    cases = []
    for name, command in COMMANDS.items():
        words = words_of(command)
        values = " ".join(f"--{flag}={value}" for flag, known in words.items() for value in known or ())
        cases.append(
            f"    {name}) flags='{' '.join(_flags(words))}'; values='{values}'; typed='{' '.join(_typed(command))}' ;;"
        )
    return _BASH.replace("COMMANDS", " ".join(COMMANDS)).replace("CASES", "\n".join(cases))


# The word is cut out of the line, because bash itself splits words at `=`. What it puts in front of a completion then begins
# after that sign. In front of the command there may be -q, -v and `help`.
_BASH = """\
# bash completion of tfgradgen: source <(tfgradgen completion bash)
_tfgradgen() {
  local line="${COMP_LINE:0:COMP_POINT}" flags='' values='' typed='' command='' first='help --version' word words each
  local -a before
  word="${line##*[[:space:]]}"
  IFS=$' \\t\\n' read -r -d '' -a before <<< "${line:0:${#line}-${#word}}"
  COMPREPLY=()
  for each in "${before[@]:1}"; do
    case $each in
      -q|--quiet|-v|--verbose|-h|--help) ;;
      help) first='' ;;
      *) command=$each; break ;;
    esac
  done
  if [[ -z $command ]]; then
    COMPREPLY=($(compgen -W "COMMANDS $first" -- "$word"))
    return
  fi
  case $command in
CASES
  esac
  case $word in
    --*=*) words=$values ;;
    -*) words=$flags ;;
    *) words=$typed ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
  if [[ $word == --*=* && $COMP_WORDBREAKS == *=* ]]; then
    COMPREPLY=("${COMPREPLY[@]#*=}")
  fi
}
complete -o default -F _tfgradgen tfgradgen
"""


def zsh_script() -> str:
    """Return the script for zsh."""
    cases = []
    for name, command in COMMANDS.items():
        specs = [f"'--{flag}{_zsh_value(flag, values)}'" for flag, values in words_of(command).items()]
        typed = f"'1:argument:({' '.join(_typed(command))})'" if _typed(command) else "'*:argument:_files'"
        cases.append(f"    {name}) _arguments {' '.join([*specs, '--help', '-q', '-v', typed])} ;;")
    return _ZSH.replace("COMMANDS", " ".join([*COMMANDS, "help"])).replace("CASES", "\n".join(cases))


def _zsh_value(flag: str, values: tuple[str, ...] | None) -> str:
    if values is None:
        return ""
    return f"=:{flag}:({' '.join(values)})" if values else f"=:{flag}:_files"


_ZSH = """\
#compdef tfgradgen
# zsh completion of tfgradgen, after compinit: source <(tfgradgen completion zsh)
_tfgradgen() {
  while (( CURRENT > 2 )) && [[ $words[2] == (-q|--quiet|-v|--verbose|-h|--help|help) ]]; do
    shift words
    (( CURRENT-- ))
  done
  if (( CURRENT == 2 )); then
    compadd COMMANDS
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
CASES
  esac
}
compdef _tfgradgen tfgradgen
"""


def fish_script() -> str:
    """Return the script for fish."""
    lines = [
        "# fish completion of tfgradgen: tfgradgen completion fish | source",
        f"complete -c tfgradgen -n __fish_use_subcommand -f -a '{' '.join([*COMMANDS, 'help'])}'",
        f"complete -c tfgradgen -n '__fish_seen_subcommand_from help' -f -a '{' '.join(COMMANDS)}'",
        "complete -c tfgradgen -s q -d 'only the last line of the result, warnings and errors'",
        "complete -c tfgradgen -s v -d 'also versions, device and times'",
        "complete -c tfgradgen -l help -d 'show help'",
    ]
    for name, command in COMMANDS.items():
        seen = f"complete -c tfgradgen -n '__fish_seen_subcommand_from {name}'"
        if _typed(command):
            lines.append(f"{seen} -f -a '{' '.join(_typed(command))}'")
        for flag, values in words_of(command).items():
            takes = "" if values is None else f" -x -a '{' '.join(values)}'" if values else " -r"
            lines.append(f"{seen} -l {flag}{takes}")
    return "\n".join(lines) + "\n"
