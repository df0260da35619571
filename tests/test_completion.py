"""Completion: real shells are asked what they offer; what ecc lists is offered, and nothing is run to find it."""

import shutil
import subprocess

import pytest
from cli_toy import run

from ecc.api.recipe import METHODS
from ecc.api.weight_recipe import WEIGHT_METHODS
from ecc.cli.completion import SHELLS, script
from ecc.cli.main import COMMANDS, whole_parser
from ecc.data.loading import READERS
from ecc.energy_models.systolic.array import PRESETS
from ecc.stages.methods import STAGES
from ecc.zoo.networks import NETWORKS

# Splits a line as readline does, at blanks and around runs of ':' and '=', and prints what is offered for its end.
ASK = r"""
ask() {
  local rest="$1" word
  COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=()
  while [[ -n $rest ]]; do
    if [[ $rest == [[:blank:]]* ]]; then rest="${rest#?}"; [[ -z $rest ]] && COMP_WORDS+=(""); continue; fi
    if [[ $rest == [:=]* ]]; then word="${rest%%[!:=]*}"; else word="${rest%%[:=[:blank:]]*}"; fi
    COMP_WORDS+=("$word"); rest="${rest#"$word"}"
  done
  [[ ${COMP_WORDS[${#COMP_WORDS[@]}-1]} == [:=]* ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  $(complete -p ecc | sed 's/.*-F \([^ ]*\) .*/\1/')
  echo "${COMPREPLY[*]}"
}
PATH=/nowhere:$PATH
while IFS= read -r line; do ask "$line"; done
"""

METRIC_NAMES = ("latency=", "energy=", "macs=", "params=", "memory=")
LINES = {
    "ecc ": set(COMMANDS),
    "ecc comp": {"compress", "completion"},
    "ecc graph zoo:": set(NETWORKS),
    "ecc graph zoo:resnet5": {"resnet50", "resnet56"},
    "ecc graph n": {"net.py"},
    "ecc graph zoo:resnet20 --re": {"--remove", "--renormalise"},
    "ecc compress zoo:lenet5 width=2 --method ": {*METHODS, *WEIGHT_METHODS},
    "ecc compress zoo:lenet5 --method=proj": {"projected-sgd"},
    "ecc compress zoo:lenet5 --data fash": {name for name in READERS if name.startswith("fash")},
    "ecc compress zoo:lenet5 --data=dig": {"digits"},
    "ecc compress zoo:lenet5 --budget ": set(METRIC_NAMES),
    "ecc compress zoo:lenet5 --cost systolic:": set(PRESETS),
    "ecc compress zoo:lenet5 --cost c": {"cost.json"},
    "ecc compress zoo:lenet5 --set admm.rh": {"admm.rho="},
    "ecc stage half --apply ": set(STAGES),
    "ecc stage half --apply fold --apply ent": {"entropy"},
    "ecc stage half --set codebook.bi": {"codebook.bits="},
    "ecc systolic zoo:alexnet --preset e": {"eyeriss"},
    "ecc verify h": {"half"},
    "ecc completion ": set(SHELLS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder, and the scripts."""
    place = tmp_path_factory.mktemp("completion")
    (place / "half").mkdir()
    for name in ("net.py", "cost.json"):
        (place / name).touch()
    for shell in SHELLS:
        (place / f".{shell}").write_text(script(shell))
    return place


@pytest.fixture(scope="module")
def offered(folder):
    """What bash offers for each of LINES."""
    said = subprocess.run(
        ["bash", "--norc", "-c", f"source ./.bash\n{ASK}"],
        cwd=folder,
        input="".join(f"{line}\n" for line in LINES),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stderr == ""
    return dict(zip(LINES, (set(line.split()) for line in said.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("line", LINES)
def test_bash_offers_what_ecc_takes(offered, line):
    assert offered[line] == LINES[line]


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_offers_the_same_names(folder):
    line = "ecc compress zoo:lenet5 --method proj"
    said = subprocess.run(
        ["fish", "--no-config", "-c", f"source .fish; complete -C '{line}'"],
        cwd=folder, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [row.split("\t")[0] for row in said.stdout.splitlines()] == ["projected-sgd"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_understands_its_script(folder):
    subprocess.run(["zsh", "-f", "-n", ".zsh"], cwd=folder, check=True, timeout=60)


def test_every_option_is_in_the_script_of_every_shell(folder):
    scripts = {shell: (folder / f".{shell}").read_text() for shell in SHELLS}
    commands = next(action.choices for action in whole_parser()._actions if action.dest == "command")
    assert set(commands) == set(COMMANDS)
    for command in commands.values():
        for option in (each for action in command._actions for each in action.option_strings if each.startswith("--")):
            assert option in scripts["bash"]
            assert option in scripts["zsh"]
            assert f"-l {option[2:]} " in scripts["fish"]


def test_the_command_prints_a_script_and_tells_where_it_belongs():
    said = run("completion bash --json")
    assert said.code == 0
    assert said.value["script"].startswith("# AUTOMATICALLY GENERATED")
    assert run("completion tcsh").code == 2
