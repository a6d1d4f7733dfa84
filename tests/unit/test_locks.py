"""Locks and waits that Control-C cannot corrupt."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from condorpool.values.locks import Monitor, uninterrupted


def interrupt():
    """Send this process what Control-C sends."""
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block():
    """The block runs to its end; then KeyboardInterrupt is raised."""
    done = []

    @uninterrupted
    def work():
        interrupt()
        with uninterrupted:
            interrupt()
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_interrupt_is_raised_instead_of_an_error_of_the_block():
    """The error is the interrupt's context."""

    @uninterrupted
    def work():
        interrupt()
        raise ValueError("mine")

    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    assert isinstance(caught.value.__context__, ValueError)


def test_the_handler_of_the_program_is_called():
    """A SIGINT handler of the program's own keeps working."""
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append(1))
    try:
        with uninterrupted:
            interrupt()
            assert not calls
        assert calls == [1]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_sig_ign_and_sig_dfl_are_not_changed(handler):
    """Python raises no KeyboardInterrupt then, so there is nothing to delay."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with uninterrupted:
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_wait_is_interrupted_at_once_and_holds_the_lock_again():
    """Also by an interrupt that came just before the wait."""
    monitor = Monitor()

    def work():
        with monitor:
            interrupt()
            try:
                return monitor.wait(30)
            finally:
                assert monitor.is_held

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not monitor.is_held
    with monitor:  # no other thread holds it
        pass


def test_notify_all_wakes_all_waiting_threads():
    """A wait without a notification ends at its timeout."""
    monitor, woken = Monitor(), []

    def wait():
        with monitor:
            woken.append(monitor.wait(30))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(monitor._waiters) < 3:
        time.sleep(0.001)
    with monitor:
        monitor.notify_all()
    for thread in threads:
        thread.join(30)
    assert woken == [True] * 3
    with monitor:
        assert not monitor.wait(0.001)
        assert not monitor._waiters
        assert monitor.wait_for(lambda: False, 0.001) is False
        assert monitor.wait_for(lambda: 3) == 3


def test_interrupts_at_any_moment_leave_the_lock_intact():
    """Thousands of interrupts: the data that it guards is never seen half changed."""
    monitor, stop = Monitor(), threading.Event()
    pair, interrupts, chance = [0, 0], 0, random.Random(1)
    is_caught = [False]  # an interrupt between two rounds would end the test

    def handler(*_):
        if is_caught[0]:
            is_caught[0] = False
            raise KeyboardInterrupt

    def other():
        while not stop.is_set():
            with monitor:
                pair[0] += 1
                pair[1] += 1
                monitor.notify_all()
            time.sleep(0.0001)

    def interrupter():
        for _ in range(3000):
            time.sleep(chance.random() * 0.0004)
            interrupt()
        stop.set()

    def change():
        while not stop.is_set():
            with monitor:
                assert pair[0] == pair[1]
                pair[0] += 1
                abs(-1)
                pair[1] += 1
                monitor.wait(0.0005)

    threads = [threading.Thread(target=other), threading.Thread(target=interrupter)]
    before = signal.signal(signal.SIGINT, handler)
    for thread in threads:
        thread.start()
    while not stop.is_set():
        try:
            is_caught[0] = True
            change()
            is_caught[0] = False
        except KeyboardInterrupt:
            interrupts += 1
    for thread in threads:
        thread.join(30)
    signal.signal(signal.SIGINT, before)
    assert not any(thread.is_alive() for thread in threads)
    assert interrupts > 300
    assert pair[0] == pair[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_forked_child_is_interrupted_as_usual():
    """It starts with no interrupt pending."""
    with uninterrupted:
        child = os.fork()
        if not child:
            is_good = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            os._exit(0 if is_good else 1)
    assert os.waitpid(child, 0)[1] == 0
