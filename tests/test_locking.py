"""One measurement at a time on a device, across processes, whatever lies about in the folder of locks."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from contextvars import Context

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from profiler_toy import INPUTS, Host, Timed, Watch, toy_graph

from ecc.core.errors import InputError, UnavailableError
from ecc.profiler import locking
from ecc.profiler.devices import current_device
from ecc.profiler.locking import Holder, device_lock
from ecc.profiler.protocol import compare, profile
from ecc.profiler.store import Store
from ecc.profiler.window import Window

pytestmark = pytest.mark.skipif(os.name != "posix", reason="folders of users are POSIX's")

HOLDING = """
import sys
from ecc.profiler.locking import device_lock
with device_lock("d0", "the device", what="profiling net into 'other.db'"):
    print("held", flush=True)
    sys.stdin.read()
"""
QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, max_blocks=1, pairs=6, max_s=1e-9)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "ecc"


def free(fingerprint):
    """Whether nobody holds it, asked as another thread would."""

    def ask():
        try:
            with device_lock(fingerprint, "it", what="trying", wait=False):
                return True
        except UnavailableError:
            return False

    return Context().run(ask)


def test_a_second_process_is_told_who_measures_or_waits_until_it_is_killed():
    told = []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(
                UnavailableError,
                match=rf"^the device is being measured on by process {other.pid}, since \d{{4}}-\d\d-\d\d .*, "
                r"profiling net into 'other.db'; wait for it to end, or leave out --no-wait to be next$",
            ),
            device_lock("d0", "the device", what="mine", wait=False),
        ):
            pass

        def progress(stage, done, total, note=""):
            told.append((stage, done, note))
            if done == 0:
                other.send_signal(signal.SIGKILL)  # the lock goes with the process, however it ends

        with device_lock("d0", "the device", what="mine", progress=progress):
            assert not free("d0")
        other.wait()
    assert told[0][:2] == ("wait for the device", 0)
    assert f"process {other.pid}" in told[0][2]
    assert told[-1][:2] == ("wait for the device", 1)
    assert free("d0")


def test_whoever_holds_the_lock_may_call_what_takes_it():
    with device_lock("d1", "it", what="outer"):
        with device_lock("d1", "it", what="inner", wait=False):
            assert not free("d1")
        assert not free("d1")  # the inner end is not the outer one
    assert free("d1")


def test_an_adaptive_profile_is_alone_on_its_device_from_its_first_batch_to_its_last(monkeypatch):
    host, graph, device, taken = Host(), toy_graph(), current_device("cpu"), []

    @contextmanager
    def counted(fingerprint, *names, **options):
        taken.append(fingerprint)
        with device_lock(fingerprint, *names, **options):
            yield

    monkeypatch.setattr("ecc.profiler.protocol.device_lock", counted)
    batches = [[{"a": 4, "b": 8}], [{"a": 8, "b": 8}], []]

    def more(table):
        assert not free(device.fingerprint)
        return batches.pop(0)

    profile(
        *(Timed(1.0), graph, INPUTS, [graph.space.full], [Watch(host)]),
        window=QUICK, runtime=host, build=host.build, more=more,
    )  # fmt: skip
    assert taken == [device.fingerprint]
    assert not batches


def test_locks_of_different_devices_do_not_meet_and_end_with_their_body(folder):
    with device_lock("d1", "it", what="a"):
        assert free("d2")
        assert not free("d1")
    assert free("d1")
    with pytest.raises(ZeroDivisionError), device_lock("d1", "it", what="a"):
        raise ZeroDivisionError
    assert free("d1")
    assert (folder.stat().st_mode & 0o777, (folder / "d1.lock").stat().st_mode & 0o777) == (0o700, 0o600)


def test_profile_and_compare_are_alone_on_their_device(tmp_path):
    host, graph, device = Host(), toy_graph(), current_device("cpu")
    design = [graph.space.full]
    elsewhere = Context()
    lock = device_lock(device.fingerprint, device.name, what="elsewhere")
    elsewhere.run(lock.__enter__)
    try:
        with pytest.raises(UnavailableError, match="elsewhere"):
            profile(
                Timed(1.0), graph, INPUTS, design, [Watch(host)],
                window=QUICK, runtime=host, build=host.build, store=tmp_path / "p.db", wait=False,
            )  # fmt: skip
        assert not (tmp_path / "p.db").exists()
        assert not host.built

        def leave(stage, done, total, note=""):
            raise InterruptedError(stage)

        with pytest.raises(InterruptedError, match="wait for the device"):
            compare(Timed(1.0), [Timed(0.5)], INPUTS, [Watch(host)], window=QUICK, runtime=host, progress=leave)
    finally:
        elsewhere.run(lock.__exit__, None, None, None)

    def held(stage, done, total, note=""):
        assert not free(device.fingerprint)

    profile(
        Timed(1.0), graph, INPUTS, design, [Watch(host)],
        window=QUICK, runtime=host, build=host.build, progress=held,
    )  # fmt: skip
    assert free(device.fingerprint)


def test_a_store_is_checked_and_may_be_complete_before_anybody_waits_for_the_device(tmp_path):
    host, graph, device = Host(), toy_graph(), current_device("cpu")
    smaller = {"a": 4, "b": 8}

    def measure(*design, inputs=INPUTS):
        return profile(
            Timed(1.0), graph, inputs, design, [Watch(host)],
            window=QUICK, runtime=host, build=host.build, store=tmp_path / "p.db", wait=False,
        )  # fmt: skip

    measure(graph.space.full)
    lock = device_lock(device.fingerprint, device.name, what="elsewhere")
    elsewhere = Context()
    elsewhere.run(lock.__enter__)
    try:
        assert measure(graph.space.full).measured == 0
        with pytest.raises(InputError, match="input shape 2x3 instead of 1x3"):
            measure(smaller, inputs=torch.zeros(2, 3))
        with pytest.raises(UnavailableError, match="elsewhere"):
            measure(smaller)
    finally:
        elsewhere.run(lock.__exit__, None, None, None)
    assert measure(smaller).measured
    assert free(device.fingerprint)


def test_rows_that_whoever_was_waited_for_has_measured_are_not_measured_again(tmp_path, monkeypatch):
    host, graph = Host(), toy_graph()

    def measure():
        return profile(
            Timed(1.0), graph, INPUTS, [graph.space.full, {"a": 4, "b": 8}], [Watch(host)],
            window=QUICK, runtime=host, build=host.build, store=tmp_path / "p.db",
        )  # fmt: skip

    with Store.open(tmp_path / "p.db"):
        pass

    @contextmanager
    def late(*names, **options):
        monkeypatch.undo()
        measure()
        yield

    monkeypatch.setattr("ecc.profiler.protocol.device_lock", late)
    assert measure().measured == 0


@pytest.mark.parametrize("trick", ["link to a folder", "file", "open to all", "link to a file"])
def test_a_prepared_place_is_not_written_to_and_the_body_runs_with_a_warning(tmp_path, monkeypatch, caplog, trick):
    target = tmp_path / "target"
    target.mkdir()
    (target / "victim").write_text("precious")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "no/absolute/path")
    monkeypatch.setattr(locking, "_private", lambda path, user: "/run/" not in str(path) and PRIVATE(path, user))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = tmp_path / f"ecc-{os.getuid()}"
    if trick == "link to a folder":
        place.symlink_to(target)
    elif trick == "file":
        place.write_text("")
    else:
        place.mkdir(mode=0o700)
        if trick == "open to all":
            place.chmod(0o777)
        else:
            (place / "d3.lock").symlink_to(target / "victim")
    ran = False
    with device_lock("d3", "the device", what="mine"):
        ran = True
    assert ran
    assert "whether another profiler uses the device cannot be told" in caplog.text
    assert [path.name for path in target.iterdir()] == ["victim"]
    assert (target / "victim").read_text() == "precious"


PRIVATE = locking._private


def test_without_a_runtime_folder_the_lock_is_in_the_folder_of_temporary_files(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(locking, "_private", lambda path, user: "/run/" not in str(path) and PRIVATE(path, user))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with device_lock("d4", "it", what="a"):
        assert not free("d4")
    assert (tmp_path / f"ecc-{os.getuid()}" / "d4.lock").exists()
    assert not caplog.text


@given(st.one_of(st.binary(max_size=200), st.just(b'{"process": 1, "since": 1e300, "what": "x"}')))
def test_what_no_holder_wrote_names_nobody(content):
    assert Holder.from_bytes(content) is None


@given(st.integers(0, 2**31), st.floats(0, 4e9), st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_a_holder_is_read_back(process, since, what):
    holder = Holder(process, since, what)
    assert Holder.from_bytes(holder.to_bytes()) == holder
