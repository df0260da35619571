"""``torchrun -m ecc compress``: real processes, on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from cli_toy import NETWORK

from ecc.api.keeping import load
from ecc.artefact import read

pytestmark = pytest.mark.slow

DATA = """
import os
import time
from dataclasses import replace

from ecc.data.loading import load_data


class Few:
    def __init__(self, batches, fails_at=0, pause_s=0.0):
        self.batches, self.fails_at, self.pause_s, self.given = list(batches)[:6], fails_at, pause_s, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.given += 1
            time.sleep(self.pause_s)
            if self.given == self.fails_at:
                raise OSError("no disk")
            yield batch


def data(**settings):
    whole = load_data("digits", batch_size=32)
    return replace(whole, train=Few(whole.train, **settings), validation=Few(whole.validation), test=Few(whole.test))


def failing():  # the first batch is given twice: it is tried before any work
    return data(fails_at=10 if os.environ["RANK"] == "1" else 0)


def slow():
    return data(pause_s=0.2)
"""


@pytest.fixture
def start(tmp_path):
    """Starts ``ecc compress`` as two processes."""
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "data.py").write_text(DATA)

    def start(model, data, *arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ecc"]
        command += ["compress", model, "--data", data, "--out", "out", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)

    return start


def spoken(err):
    """What ecc itself said last."""
    return [line for line in err.splitlines() if line.startswith(("ecc compress:", "resume with:"))]


def test_a_network_is_compressed_and_one_process_writes_and_speaks(start, tmp_path):
    arguments = ["--pretrain", "3", "--lr", "3e-3", "--epochs", "2", "--budget", "macs=0.6"]
    process = start("zoo:digits-resnet", "digits", *arguments, "--json", "--tensorboard", "board")
    out, err = process.communicate()
    assert process.returncode == 0, err
    value = json.loads(out)  # one object, of one process
    assert value["met"] is True
    assert value["accuracy"] > 0.5  # a tenth by luck
    loaded = load(tmp_path / "out")
    state = read(tmp_path / "out").state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    assert dict(loaded.widths) == value["widths"]
    assert len(list((tmp_path / "board").iterdir())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board", "data.py", "net.py", "out"]


def test_a_process_that_fails_ends_the_job_with_one_sentence(start):
    process = start("net.py:small", "data.py:failing", "--pretrain", "9", "--epochs", "2", "--budget", "macs=0.5")
    out, err = process.communicate()
    assert process.returncode != 0
    assert not out
    (said,) = spoken(err)
    assert "failed at batch 2 of epoch 2 (OSError: no disk)" in said
    assert "state is saved" in said
    assert "exitcode  : 2" in err  # as torchrun tells it


def test_an_interrupted_job_says_so_once_and_goes_on(start, tmp_path):
    arguments = ("--lr", "5e-3", "--epochs", "2", "--budget", "macs=0.5")
    process = start("net.py:small", "data.py:slow", "--pretrain", "6", *arguments)
    kept = tmp_path / ".out.work"
    for line in process.stderr:
        if line.startswith("pretrain"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    err = process.communicate()[1]
    interrupted, resume = spoken(err)
    assert "was interrupted in epoch" in interrupted
    assert resume == "resume with: the same torchrun command"
    assert [path.name for path in kept.iterdir()] == ["pretrain.safetensors"]
    process = start("net.py:small", "data.py:slow", "--pretrain", "6", *arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "macs" in out
    assert not kept.exists()
