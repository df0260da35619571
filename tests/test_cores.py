import os
import sys
import threading

import pytest

from ecc.core.errors import InputError
from ecc.profiler.cores import Load, boost_state, choose_cores, pinned, smt_state

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps processes on cores")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Three cores of two hardware threads each, 0 and 3 and so on; this process may use all but the first."""
    for core in range(6):
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 3},{core % 3 + 3}\n")
    monkeypatch.setattr("ecc.profiler.cores._allowed", lambda: [1, 2, 3, 4, 5])
    return tmp_path


@pytest.mark.parametrize(
    ("threads", "cores"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 3, 4)), (9, (1, 2, 3, 4, 5))], ids=str
)
def test_physical_cores_are_chosen_before_their_siblings(machine, threads, cores):
    assert choose_cores(threads, tree=machine) == cores


def test_siblings_that_are_neighbours_are_skipped(tmp_path, monkeypatch):
    for core in range(6):
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core // 2 * 2}-{core // 2 * 2 + 1}\n")
    monkeypatch.setattr("ecc.profiler.cores._allowed", lambda: list(range(6)))
    assert choose_cores(2, tree=tmp_path) == (0, 2)
    assert choose_cores(4, tree=tmp_path) == (0, 1, 2, 4)


def test_without_a_topology_each_core_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("ecc.profiler.cores._allowed", lambda: [4, 7])
    assert choose_cores(1, tree=tmp_path) == (4,)
    assert choose_cores(2, tree=tmp_path) == (4, 7)


@pytest.mark.parametrize(
    ("threads", "wanted", "message"),
    [
        (1, (0,), "core 0 is not among the cores of this process: 1,2,3,4,5"),
        (1, (2, 17), "core 17 is not among"),
        (2, (4,), "2 threads need as many cores, got 4"),
    ],
)
def test_cores_that_cannot_be_had_are_refused(machine, threads, wanted, message):
    with pytest.raises(InputError, match=message):
        choose_cores(threads, wanted, tree=machine)
    assert choose_cores(1, (5, 2), tree=machine) == (2, 5)


def test_where_processes_cannot_be_kept_on_cores_none_are_chosen(monkeypatch):
    monkeypatch.setattr("ecc.profiler.cores._allowed", list)
    assert choose_cores(2) == ()
    with pytest.raises(InputError, match="leave the cores out"):
        choose_cores(1, (0,))


@linux
def test_all_threads_are_kept_on_the_cores_and_go_back():
    before = os.sched_getaffinity(0)
    core = min(before)
    started, done, seen = threading.Event(), threading.Event(), []

    def other():
        started.set()
        done.wait(60)
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=other)
    thread.start()
    started.wait(60)
    with pinned((core,)):
        inside = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
    after = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
    done.set()
    thread.join()
    assert len(inside) >= 2
    assert all(found == {core} for found in inside)
    assert all(found == before for found in after)
    assert seen == [before]


@linux
def test_cores_are_given_back_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(KeyError), pinned((min(before),)):
        raise KeyError
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("files", "boost", "smt"),
    [
        ({}, "unknown", "unknown"),
        ({"intel_pstate/no_turbo": "1", "smt/active": "1"}, "off", "on"),
        ({"intel_pstate/no_turbo": "0", "cpufreq/boost": "0", "smt/active": "0"}, "on", "off"),
        ({"cpufreq/boost": "1"}, "on", "unknown"),
        ({"cpufreq/boost": "?"}, "unknown", "unknown"),
    ],
    ids=range(5),
)
def test_boost_and_smt_are_read_where_the_kernel_tells(tmp_path, files, boost, smt):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert (boost_state(tmp_path), smt_state(tmp_path)) == (boost, smt)


def stat(path, *ticks):
    lines = [f"cpu{core} {user} 0 0 1000 50 0 0 7 0 0" for core, user in enumerate(ticks)]
    path.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5"]))
    return path


def test_the_load_of_others_is_what_the_cores_did_beside_this_process(tmp_path):
    hz = os.sysconf("SC_CLK_TCK")
    earlier = Load.now((1, 2), stat=stat(tmp_path / "a", 9, 0, 0, 9))
    later = Load.now((1, 2), stat=stat(tmp_path / "b", 999, 2 * hz, hz, 999))
    quiet = Load(later.at, later.busy_s, earlier.own_s + 1.0, 2)
    begin = Load(later.at - 2.0, earlier.busy_s, earlier.own_s, 2)
    assert quiet.foreign_share(begin) == pytest.approx((3 - 1) / (2 * 2))
    assert quiet.foreign_share(Load(later.at - 0.1, 0.0, 0.0, 2)) is None  # too short
    assert Load.now((), stat=tmp_path / "b").busy_s is None
    assert Load.now((17,), stat=tmp_path / "b").busy_s is None
    assert Load.now((1,), stat=tmp_path / "none").busy_s is None


def test_a_core_that_is_named_twice_is_refused(machine):
    with pytest.raises(InputError, match=r"^name each core once, got 1,2,1$"):
        choose_cores(1, (1, 2, 1), tree=machine)
