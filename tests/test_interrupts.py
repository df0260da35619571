import os
import signal
import threading

import pytest

from ecc.solvers.interrupts import deferred_interrupt


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_press_is_noted_and_raised_at_the_end():
    seen = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as pressed:  # noqa: PT012 - order matters
        seen.append(pressed())
        press()
        seen.append(pressed())
    assert seen == [False, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_press_interrupts_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():  # noqa: PT012 - order matters
        press()
        reached.append(1)
        press()
        reached.append(2)
    assert reached == [1]


def test_without_a_press_nothing_happens():
    with deferred_interrupt() as pressed:
        assert not pressed()


def test_a_handler_of_the_program_and_other_threads_are_left_alone():
    caught = []
    signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    try:
        with deferred_interrupt() as pressed:
            press()
            assert not pressed()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert caught == [1]

    def work():
        with deferred_interrupt():
            caught.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == [1, True]
