"""While one measures on a device, nobody trains there; and nobody waits for those who have died."""

import os
import subprocess
import sys
import threading
import time

import pytest

from ecc.core.errors import InputError
from ecc.profiler.cores import choose_cores, free_to_measure_on, pinned
from ecc.profiler.locking import device_lock, measuring_by
from ecc.sweeps.gate import Gate


class _Trainer:
    """Trains in a thread, step by step, as another process would; counts its steps."""

    def __init__(self, folder, devices):
        self.steps, self.stop = 0, False
        self._gate = Gate(folder, devices)
        self._thread = threading.Thread(target=self._train)
        self._thread.start()

    def _train(self):
        self._gate.enter()
        while not self.stop:
            self._gate.pause()
            self.steps += 1
            time.sleep(0.001)
        self._gate.leave()

    def moves(self):
        """Whether it makes steps."""
        before, late = self.steps, time.monotonic() + 5
        while self.steps < before + 3 and time.monotonic() < late:
            time.sleep(0.002)
        return self.steps >= before + 3

    def end(self):
        self.stop = True
        self._thread.join()
        self._gate.close()


@pytest.fixture
def trainers(tmp_path):
    made = [_Trainer(tmp_path, ["cpu"]), _Trainer(tmp_path, ["cpu", "gpu"])]
    yield made
    for trainer in made:
        trainer.end()


def test_nobody_trains_where_another_measures_and_all_go_on_afterwards(tmp_path, trainers):
    assert all(trainer.moves() for trainer in trainers)
    gate = Gate(tmp_path, ["cpu"])
    gate.enter()
    for _ in range(3):
        with gate.alone("cpu"):
            before = [trainer.steps for trainer in trainers]
            time.sleep(0.1)
            assert [trainer.steps for trainer in trainers] == before
        assert all(trainer.moves() for trainer in trainers)
    assert gate.waited_s < 3
    gate.close()


def test_only_those_who_train_on_the_device_wait(tmp_path, trainers):
    gate = Gate(tmp_path, [])
    with gate.alone("gpu"):
        before = trainers[1].steps
        assert trainers[0].moves()
        assert trainers[1].steps == before
    gate.close()


def test_those_who_measure_take_turns(tmp_path):
    inside, most = [], []

    def measure():
        gate = Gate(tmp_path, ["cpu"])
        gate.enter()
        with gate.alone("cpu"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()
        gate.close()

    threads = [threading.Thread(target=measure) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most == [1] * 5


_HOLDER = """
import sys, time
from pathlib import Path
from ecc.sweeps.gate import Gate
gate = Gate(Path(sys.argv[1]), ["cpu"])
with gate.alone("cpu"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_one_that_is_killed_while_it_measures_holds_up_nobody(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    trainer = _Trainer(tmp_path, ["cpu"])
    time.sleep(0.05)
    assert trainer.steps == 0
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert trainer.moves()
    trainer.end()


def test_measurements_of_a_job_begin_at_the_gate(tmp_path, monkeypatch, trainers):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    gate = Gate(tmp_path, ["cpu"])
    with measuring_by(gate.alone), device_lock("cpu", "this CPU", what="testing"):
        before = [trainer.steps for trainer in trainers]
        time.sleep(0.05)
        assert [trainer.steps for trainer in trainers] == before
    assert all(trainer.moves() for trainer in trainers)
    gate.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be kept on cores here")
def test_a_worker_that_is_kept_on_a_core_measures_on_the_core_of_the_profile():
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("one core only")
    own, other = allowed[:2]
    os.sched_setaffinity(0, {own})
    try:
        with pytest.raises(InputError, match=f"core {other} is not among"):
            choose_cores(1, (other,))
        with free_to_measure_on(allowed):
            assert choose_cores(1, (other,)) == (other,)
            with pinned((other,)):
                assert os.sched_getaffinity(0) == {other}
        assert os.sched_getaffinity(0) == {own}
    finally:
        os.sched_setaffinity(0, allowed)
