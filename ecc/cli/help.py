"""How help texts are laid out: names stay whole, commands can be pasted, lists have lines of their own."""

from __future__ import annotations

import argparse
import re
import textwrap

__all__ = ["HelpFormatter"]

_COMMANDS_COLUMN = 14  # argparse forgets the indent of subcommands, and would put the help of long ones on a new line


class HelpFormatter(argparse.HelpFormatter):
    """Folds lines at blanks alone; in descriptions and epilogs, lines that begin with two blanks stay lines.

    One of these that is too long is folded as a shell takes it where it is a command, else below its beginning.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = _COMMANDS_COLUMN

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("  "):
                lines += _kept(line, width - len(indent))
            else:
                lines += textwrap.wrap(line, width - len(indent), break_on_hyphens=False) or [""]
        return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def _kept(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    if re.match(r"  ecc ", line):
        return _continued(line, width)
    return textwrap.wrap(line, width, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False)


def _continued(command: str, width: int) -> list[str]:
    """A command on several lines, each option with its value."""
    lines: list[str] = []
    for piece in re.split(r" (?=--?[a-z])", command):
        if lines and len(lines[-1]) + len(piece) + 3 <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece if not lines else f"      {piece}")
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
