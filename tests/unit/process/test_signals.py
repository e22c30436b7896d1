"""Requests to stop: at once outside of training, after a checkpoint within; real signals to this process."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rosepo_ray.errors import Stopped
from rosepo_ray.process import signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # the handler runs at the next bytecode of the main thread


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_outside_of_training_a_request_ends_the_job_at_once(number: int, code: int, name: str):
    with signals.handled(), pytest.raises(Stopped, match=f"stopped by {name}") as raised:
        send(number)
    assert raised.value.exit_code == code


def test_a_request_that_a_library_swallowed_is_found_again():
    with signals.handled():
        with contextlib.suppress(Exception):
            send(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.raise_if_asked()
    signals.raise_if_asked()  # forgotten with the job


def test_training_is_asked_first_and_a_second_request_does_not_wait():
    with signals.handled(), signals.deferred() as asked:
        assert not asked()
        send(signal.SIGTERM)
        assert asked()
        with pytest.raises(Stopped):
            send(signal.SIGTERM)


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with signals.handled():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_workers_that_end_no_step_get_no_more_than_the_grace_time(tmp_path: Path):
    from rosepo_ray.on_ray import trainer

    release = threading.Event()
    thread = threading.Thread(target=release.wait, daemon=True)
    thread.start()
    began = time.monotonic()
    with pytest.raises(Stopped, match="no step ended within 1 s"):
        trainer.wait(thread, lambda: True, str(tmp_path / "stop"), 1.0)
    assert 1.0 <= time.monotonic() - began < 5.0
    assert (tmp_path / "stop").exists()
    release.set()
