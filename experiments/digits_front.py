"""The front of the README: three methods at several latency budgets, on the network that `ecc demo` trained.

    ecc demo --out ecc-demo
    python experiments/digits_front.py ecc-demo

Writes the artefacts under DEMO/front, the points to experiments/measurements/digits_front.csv with the environment that
they were measured in, and the picture to docs/front.png.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

METHODS = ("admm", "uniform", "magnitude")
BUDGETS = (0.5, 0.35, 0.25)
HERE = Path(__file__).resolve().parent


def ecc(*arguments: str) -> dict[str, object]:
    """Run a command with --json; exit code 1 (a budget missed) is a result like any other."""
    command = str(Path(sys.executable).with_name("ecc"))
    done = subprocess.run([command, *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main(demo: Path) -> None:
    folders = []
    for budget in BUDGETS:
        for method in METHODS:
            folder = demo / "front" / f"{method}-{budget}"
            folders.append(str(folder))
            if not folder.exists():
                ecc(
                    *("compress", "zoo:digits-resnet", "--weights", str(demo / "dense.safetensors")),
                    *("--data", "digits", "--batch-size", "64", "--cost", str(demo / "cost-latency.json")),
                    *("--budget", f"latency={budget}", "--method", method),
                    *("--epochs", "24", "--lr", "2e-3", "--out", str(folder)),
                )
    front = ecc("front", *folders, "--x", "latency", "--out", str(demo / "front" / "front.html"))
    points = pd.DataFrame(front["points"])
    manifests = [json.loads((Path(folder) / "manifest.json").read_text()) for folder in folders]
    budgets = [manifest["budgets"][0] for manifest in manifests]
    rows = points[points["method"] != "dense"].reset_index(drop=True)
    rows["budget"] = [check["limit"] / check["dense"] for check in budgets]
    rows["predicted"] = [check["predicted"] / check["dense"] for check in budgets]
    rows["measured"] = [check["measured"] / check["dense"] for check in budgets]
    rows["low"] = [check["low"] / check["dense"] for check in budgets]
    rows["high"] = [check["high"] / check["dense"] for check in budgets]
    rows["met"] = [check["met"] for check in budgets]
    rows["accuracy_dense"] = [manifest["accuracy_dense"] for manifest in manifests]
    rows["device"] = [manifest["device"] for manifest in manifests]
    rows["torch"] = [manifest["environment"]["torch"] for manifest in manifests]
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE, check=True
    )
    rows["commit"] = revision.stdout.strip()
    rows.drop(columns=["label", "dominated"]).to_csv(HERE / "measurements" / "digits_front.csv", index=False)
    shutil.copy(str(front["figure"]), HERE.parent / "docs" / "front.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
