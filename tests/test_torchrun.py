"""``torchrun -m ecc compress``: real processes, on the CPU."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from cli_toy import NETWORK

from ecc.api.keeping import load
from ecc.artefact import read
from ecc.cli.main import main

pytestmark = pytest.mark.slow

SMALL = ("--lr", "5e-3", "--epochs", "2", "--budget", "macs=0.5", "--set", "train.checkpoint_every_s=0.1")

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
    with open(f"pid{os.environ['RANK']}", "w") as file:
        file.write(str(os.getpid()))
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


class Job:
    """``ecc compress`` in two forked processes, as torchrun would start them, which spares them the imports."""

    def __init__(self, folder, *arguments):
        self.folder, self.arguments = folder, ["compress", *arguments, "--out", "out"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        context = multiprocessing.get_context("fork")
        self.processes = [context.Process(target=self.run, args=(rank,)) for rank in range(2)]
        for process in self.processes:
            process.start()

    def run(self, rank):
        os.chdir(self.folder)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port}
        with open(f"err{rank}", "w", buffering=1) as sys.stderr, open(f"out{rank}", "w") as sys.stdout:
            code = main(self.arguments)
        os._exit(code)

    def wait_for_training(self):
        until = time.monotonic() + 100
        while "pretrain" not in self.text("err0") and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1)

    def signal(self, rank, number):
        os.kill(self.processes[rank].pid, number)

    def end(self):
        for process in self.processes:
            process.join(140)
        return [process.exitcode for process in self.processes]

    def text(self, name):
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    @property
    def spoken(self):
        return [line for rank in range(2) for line in spoken(self.text(f"err{rank}"))]


def test_a_process_that_fails_ends_the_job_with_one_sentence(start, tmp_path):
    job = Job(tmp_path, "net.py:small", "--data", "data.py:failing", "--pretrain", "9", *SMALL)
    assert job.end() == [2, 2]
    (said,) = job.spoken
    assert "failed at batch 2 of epoch 2" in said
    assert "state is saved" in said
    assert not job.text("out0")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_with_one_sentence_and_it_goes_on(start, tmp_path, victim):
    """The job is killed, then interrupted, then left alone."""
    given = ("net.py:small", "--data", "data.py:slow", "--pretrain", "6", *SMALL)
    kept = tmp_path / ".out.work"
    job = Job(tmp_path, *given)
    job.wait_for_training()
    job.signal(victim, signal.SIGKILL)
    assert sorted(job.end()) == [-9, 3]
    (said,) = job.spoken
    assert "another process of this job has ended" in said
    assert "the same call goes on from the last saved state" in said
    assert [path.name for path in kept.iterdir()] == ["pretrain.safetensors"]
    job = Job(tmp_path, *given)
    job.wait_for_training()
    job.signal(1 - victim, signal.SIGINT)
    assert job.end() == [130, 130]
    interrupted, resume = job.spoken
    assert "was interrupted in epoch" in interrupted
    assert resume == "resume with: the same torchrun command"
    job = Job(tmp_path, *given)
    assert job.end() == [0, 0]
    assert "macs" in job.text("out0")
    assert not kept.exists()


def test_torchrun_ends_the_job_of_a_killed_process_with_one_sentence(start, tmp_path):
    process = start("net.py:small", "data.py:slow", "--pretrain", "60", *SMALL)
    for line in process.stderr:
        if line.startswith("pretrain"):
            break
    os.kill(int((tmp_path / "pid0").read_text()), signal.SIGKILL)
    err = process.communicate()[1]
    assert process.returncode == 1
    (said,) = (line for line in spoken(err) if line.startswith("ecc compress:"))
    assert "another process of this job has ended" in said or "interrupted" in said
