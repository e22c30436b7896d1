"""Sending in the background: it never raises, tries again, and says at the end whether everything arrived."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from rosepo_ray.registry.sender import Sender


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_it_sends_again_and_again_and_the_status_last() -> None:
    sent: list[str] = []
    sender = Sender(sent.append, seconds=0.01)
    sender.start()
    wait_for(lambda: len(sent) >= 3)
    assert sender.close("FINISHED", 10)
    assert sent[-1] == "FINISHED"
    assert set(sent[:-1]) == {"RUNNING"}


def test_an_outage_is_one_warning_and_its_end_one_line(caplog: pytest.LogCaptureFixture) -> None:
    calls, away = [], threading.Event()
    away.set()

    def send(status: str) -> None:
        calls.append(status)
        if away.is_set():
            raise ConnectionError("refused")

    with caplog.at_level(logging.INFO, "rosepo_ray"):
        sender = Sender(send, seconds=0.005, longest=0.02)
        sender.start()
        wait_for(lambda: len(calls) >= 4)
        away.clear()
        before = len(calls)
        wait_for(lambda: len(calls) >= before + 2)
        assert sender.close("FAILED", 10)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused" in warnings[0].getMessage()
    assert sum("answers again" in record.getMessage() for record in caplog.records) == 1
    assert calls[-1] == "FAILED"


def test_what_does_not_arrive_is_told_and_a_call_that_hangs_is_left() -> None:
    def fail(status: str) -> None:
        raise ConnectionError

    sender = Sender(fail)
    assert not sender.close("FINISHED", 10)

    release = threading.Event()
    hanging = Sender(lambda status: release.wait(20) and None)
    began = time.monotonic()
    assert not hanging.close("KILLED", 0.1)
    assert time.monotonic() - began < 5
    release.set()


def test_attempts_become_rarer_while_the_server_is_away() -> None:
    times: list[float] = []

    def fail(status: str) -> None:
        times.append(time.monotonic())
        raise ConnectionError

    sender = Sender(fail, seconds=0.02, longest=0.2)
    sender.start()
    wait_for(lambda: len(times) >= 5)
    sender.close("FINISHED", 10)
    gaps = [after - before for before, after in pairwise(times[:5])]
    assert gaps[0] >= 0.04
    assert gaps[1] >= 0.08
    assert gaps[2] >= 0.16
