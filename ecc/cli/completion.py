"""completion: a script by which a shell completes the arguments of ecc; it never calls ecc, so that Tab is quick."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from types import MappingProxyType
from typing import Any

import shtab

from ecc.api.recipe import METHODS, options_of
from ecc.api.stage_options import stage_options
from ecc.api.weight_recipe import WEIGHT_METHODS, weight_options_of
from ecc.cli.command import Command, Outcome
from ecc.cli.main import whole_parser
from ecc.cli.progress import ProgressLine
from ecc.core.cost import METRICS
from ecc.data.loading import READERS
from ecc.energy_models.systolic.array import PRESETS
from ecc.stages.methods import STAGES
from ecc.zoo.networks import NETWORKS

__all__ = ["COMMANDS", "SHELLS", "script"]

SHELLS: Mapping[str, str] = MappingProxyType(
    {
        "bash": "ecc completion bash > ~/.local/share/bash-completion/completions/ecc",
        "fish": "ecc completion fish > ~/.config/fish/completions/ecc.fish",
        "zsh": "ecc completion zsh > ~/.zfunc/_ecc, with `fpath+=~/.zfunc` before compinit in ~/.zshrc",
    }
)
"""How each gets its script; the folder must be there."""

_LONGEST_HELP = 90
_FOLDERS = re.compile(r"^(DIR\d?|DIR…)$")
_FILES = re.compile(r"^(FILE|STORE|OUT|PAGE|.*\.[a-z]+)$")


@dataclass(frozen=True, slots=True)
class _Words:
    """What may be typed at one place.

    Attributes:
        name: Of the functions that give it, letters only: shtab takes others for names of files.
        words: In the order in which they are shown.
        paths: Whether a file or folder may be typed there too.
    """

    name: str
    words: tuple[str, ...]
    paths: bool = False

    @property
    def completer(self) -> dict[str, Any]:
        """As shtab takes it."""
        name = f"_ecc_words_{self.name}"
        words = " ".join(map(quote, self.words))
        paths = {
            "bash": '\n  compgen -f -- "$1"' if self.paths else "",
            "zsh": "\n  _files" if self.paths else "",
            "fish": "\n  __fish_complete_path (commandline -ct)" if self.paths else "",
        }
        return {
            "bash": name,
            "zsh": name,
            "fish": f"({name})",
            "preamble": {
                "bash": f'{name}() {{\n  compgen -W {quote(" ".join(self.words))} -- "$1"{paths["bash"]}\n}}\n',
                "zsh": f"{name}() {{\n  compadd -S '' -- {words}{paths['zsh']}\n}}\n"
                if all(word.endswith("=") for word in self.words)
                else f"{name}() {{\n  compadd -- {words}{paths['zsh']}\n}}\n",
                "fish": f"function {name}\n  printf '%s\\n' {words}{paths['fish']}\nend\n",
            },
        }


_SPLIT_WORDS = """
# bash splits words at ':' and '=', ecc does not: what belongs together is joined, and what bash replaces is left.
_ecc_complete() {
  local -a whole=()
  local rest="$COMP_LINE" piece last="" i blank
  for ((i = 0; i <= COMP_CWORD; i++)); do
    piece="${COMP_WORDS[i]}"
    blank="${rest%%[![:blank:]]*}"
    rest="${rest#"$blank"}"
    rest="${rest#"$piece"}"
    if [[ $i -gt 0 && -z $blank && ( $piece == [:=]* || $last == *[:=] ) ]]; then
      whole[${#whole[@]}-1]+="$piece"
    else
      whole+=("$piece")
    fi
    last="$piece"
  done
  local typed="${whole[${#whole[@]}-1]}"
  local -a COMP_WORDS=()
  for piece in "${whole[@]}"; do
    if [[ $piece == --*=* ]]; then
      COMP_WORDS+=("${piece%%=*}" "${piece#*=}")
    else
      COMP_WORDS+=("$piece")
    fi
  done
  local COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) stem=""
  _shtab_ecc
  [[ $typed == --*=* ]] && typed="${typed#*=}"
  [[ $typed == *[:=]* ]] && stem="${typed%"${typed##*[:=]}"}"
  for ((i = 0; i < ${#COMPREPLY[@]}; i++)); do
    COMPREPLY[i]="${COMPREPLY[i]#"$stem"}"
  done
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
    compopt -o nospace 2>/dev/null
  fi
  return 0
}
complete -o bashdefault -F _ecc_complete ecc
"""


def script(shell: str) -> str:
    """The completion script of one of SHELLS."""
    parser = whole_parser()
    for name, command in _commands(parser):
        for action in command._actions:
            _prepare(name, action)
    text = shtab.complete(parser, shell)
    return text.rstrip() + "\n" + (_SPLIT_WORDS if shell == "bash" else "")


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield "", parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _prepare(command: str, action: argparse.Action) -> None:
    """Say what completes an argument, and shorten what shells show of it."""
    completer = _completer(command, action)
    if completer is not None:
        action.complete = completer  # type: ignore[attr-defined]
    if isinstance(action.metavar, str):
        action.metavar = re.split(r"[^\w.=-]", action.metavar)[0] or "VALUE"  # zsh has a meaning for ':' and '['
    if action.help and action.help != argparse.SUPPRESS:
        action.help = _short(action.help)


def _completer(command: str, action: argparse.Action) -> Any:
    if action.choices is not None or action.nargs == 0:
        return None
    if (words := _words(command, action)) is not None:
        return words.completer
    shown = action.metavar if isinstance(action.metavar, str) else ""
    if _FOLDERS.match(shown):
        return shtab.DIRECTORY
    return shtab.FILE if _FILES.match(shown) else None


def _words(command: str, action: argparse.Action) -> _Words | None:
    shown = action.metavar if isinstance(action.metavar, str) else ""
    if "MODEL" in shown:
        return _Words("model", tuple(f"zoo:{name}" for name in NETWORKS), paths=True)
    if "STAGE" in shown and action.dest == "apply":
        return _Words("stage", tuple(STAGES))
    found: dict[str, Callable[[], _Words]] = {
        "data": lambda: _Words("data", ("digits", *READERS), paths=True),
        "preset": lambda: _Words("preset", tuple(PRESETS), paths=True),
        "cost": lambda: _Words("cost", tuple(f"systolic:{name}" for name in PRESETS), paths=True),
        "device": lambda: _Words("device", ("cpu", "cuda")),
        "budget": lambda: _Words("budget", tuple(f"{metric}=" for metric in METRICS)),
        "settings": lambda: _settings(command),
    }
    make = found.get(action.dest)
    return None if make is None else make()


def _settings(command: str) -> _Words:
    """PART.OPTION= of every part that a command has."""
    parts: Sequence[Mapping[str, Sequence[str]]] = (
        [stage_options()]
        if command == "stage"
        else [*map(options_of, METHODS), *map(weight_options_of, WEIGHT_METHODS)]
    )
    words = dict.fromkeys(f"{part}.{name}=" for known in parts for part, names in known.items() for name in names)
    return _Words(f"settings{command}", tuple(words))


def _short(text: str) -> str:
    """The beginning of a help text, up to where it goes into detail."""
    first = re.split(r"; |: | \(", text)[0]
    if len(first) > _LONGEST_HELP:
        first = first[:_LONGEST_HELP].rpartition(" ")[0] + " …"
    return first


def _arguments(parser: argparse.ArgumentParser) -> None:
    lines = [f"  {line}" for line in SHELLS.values()]
    parser.add_argument_group("where scripts belong", "\n".join(lines))
    parser.add_argument("shell", choices=tuple(SHELLS), help="whose script is printed; make the folder that it goes to")


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    progress.begin("asking every command for its arguments")
    text = script(arguments.shell)
    return Outcome({"shell": arguments.shell, "script": text, "install": SHELLS[arguments.shell]}, text)


COMMANDS = (
    Command(
        "completion",
        SHELLS["bash"],
        _arguments,
        _run,
    ),
)
