"""A signal is a flag until a boundary; the handlers that were there come back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from certtrain.system import signals
from certtrain.system.signals import Interrupted, SignalFlag


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_sets_the_flag_and_the_handlers_come_back(number, status):
    before = signal.getsignal(number)
    with SignalFlag() as flag:
        flag.raise_if_set()
        send(number)
        assert flag.number == number
        with pytest.raises(Interrupted) as error:
            flag.raise_if_set()
        assert error.value.exit_status == status
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_at_once():
    with SignalFlag() as flag:
        send(signal.SIGTERM)
        send(signal.SIGTERM)  # a scheduler may repeat it: still the flag
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert flag.number == signal.SIGTERM
    with SignalFlag() as flag:
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # as torch's launcher passes a second Ctrl-C on
            send(signal.SIGTERM)


def test_handlers_that_somebody_took_over_are_taken_back_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with SignalFlag() as flag:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        flag.install()
        send(signal.SIGTERM)
        assert flag.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_installed():
    seen = []

    def work():
        with SignalFlag() as flag:
            seen.append((flag.number, flag._previous))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, {})]


def test_the_first_signal_is_answered_in_words_once(capsys):
    with SignalFlag():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
    assert capsys.readouterr().err == "SIGTERM: stopping; what is done is kept (Ctrl-C again: at once)\n"
    with SignalFlag(quiet=True):
        send(signal.SIGINT)
    assert capsys.readouterr().err == ""


@pytest.mark.ops
def test_the_answer_does_not_wait_for_the_call_that_the_main_thread_is_in():
    """As a long call into a library: Python's own handlers, and so the flag, wait for its end."""
    code = (
        "import ctypes, os, signal, sys, threading\n"
        "from certtrain.system.signals import SignalFlag\n"
        "read, write = os.pipe(); kept = os.dup(2); os.dup2(write, 2)\n"
        "with SignalFlag() as flag:\n"
        "    threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "    held = ctypes.create_string_buffer(200)\n"
        "    call = ctypes.CDLL(None).read\n"  # without the GIL, until the answer is there; restarted after a signal
        "    count = 0\n"
        "    while count <= 0:\n"
        "        count = call(read, held, 200)\n"
        "os.dup2(kept, 2)\n"
        "print(held.value.decode(), flag.number)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("SIGTERM: stopping"), done.stderr


def test_the_wakeup_descriptor_of_somebody_else_comes_back():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with SignalFlag():
        assert signal.set_wakeup_fd(-1) != before
    assert signal.set_wakeup_fd(before) == before


def test_inside_a_batch_a_signal_waits_a_few_seconds_for_its_end(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with SignalFlag(quiet=True) as flag:
        flag.raise_if_overdue()
        send(signal.SIGTERM)
        for second in (100.0, 102.9):
            now[0] = second
            flag.raise_if_overdue()
        now[0] = 103.0
        with pytest.raises(Interrupted):
            flag.raise_if_overdue()
    assert signals.PATIENCE_SECONDS < 10
