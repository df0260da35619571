"""A compression killed again and again: whether it ends with the weights of one that was not.

    python experiments/training_faults.py --kills 20

A process trains a small network on the embedded digits, prunes it by ADMM to half of its multiplications and tunes it,
on one thread; it is killed (SIGKILL) after a random time of the processor, and the same command goes on. The budget is
one that needs no measurement, since two measurements are never the same. Writes a line per kill to
experiments/measurements/training_faults.csv: after how many seconds of the processor it came, which stages had a saved
state, and whether the weights at the end of that job are bit for bit those of a job that nobody killed. Exits with 1 if
some are not.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from records import MEASUREMENTS, environment
from safetensors.torch import load_file

import ecc.cli.compression  # noqa: F401 - once, rather than in every life
from ecc.cli.main import main as ecc_main

LIVES = 3  # that a job takes at least, killed as often as that
COMMAND = (
    *("compress", "zoo:digits-resnet", "--data", "digits", "--budget", "macs=0.5", "--pretrain", "2", "--epochs", "4"),
    *("--set", "train.checkpoint_every_s=0.1", "--set", "train.ema=0.99", "--device", "cpu", "--quiet", "--json"),
)


def begin(out):
    """A process that does what is left of the job."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        torch.set_num_threads(1)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
        code = ecc_main([*COMMAND, "--out", str(out)])
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def finish(child):
    """Wait for the end; whether it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a job failed by itself with exit code {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def used(child):
    """Seconds of the processor that a process has used, and whether it has ended."""
    fields = Path(f"/proc/{child}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "Z"


def kill_after(seconds, out):
    """One life; whether it had to be killed."""
    child = begin(out)
    while True:
        spent, over = used(child)
        if over or spent >= seconds:
            break
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return finish(child)


def saved(out):
    """Stages that have a state."""
    return " ".join(sorted(path.stem for path in out.with_name(f".{out.name}.work").glob("[!.]*.safetensors")))


def same(one, other):
    """Whether two artefacts hold the same bits."""
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def kill_often(folder, kills, seed):
    """A record per kill; a job that ends is followed by another one."""
    rng = np.random.default_rng(seed)
    whole = folder / "whole"
    before = os.times().children_user
    finish(begin(whole))
    longest = 2 * (os.times().children_user - before) / LIVES
    records, job = [], 0
    while len(records) < kills:
        out, lives = folder / f"job{job}", []
        while not (out / "manifest.json").exists():
            if len(records) + len(lives) == kills:
                finish(begin(out))
                break
            seconds = float(rng.uniform(0.0, longest))
            if kill_after(seconds, out):
                lives.append({"kill": len(records) + len(lives), "job": job, "after_s": seconds, "saved": saved(out)})
                print(lives[-1], file=sys.stderr)
        identical = same(whole, out)
        records += [life | {"same_weights": identical} for life in lives]
        job += 1
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = kill_often(Path(folder), given.kills, given.seed)
    table = pd.DataFrame(records).assign(**environment())
    table.to_csv(MEASUREMENTS / "training_faults.csv", index=False)
    print(f"{len(table)} kills in {table.job.nunique()} jobs, {int(table.same_weights.sum())} with the same weights")
    return int(not table.same_weights.all())


if __name__ == "__main__":
    sys.exit(main())
