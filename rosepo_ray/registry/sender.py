"""Sending a run's record while the job works: in the background, and never at the job's cost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rosepo_ray.registry import server

LOGGER = logging.getLogger(__name__)

RUNNING = "RUNNING"


class Sender:
    """Calls `send(RUNNING)` every `seconds` until it is closed, then once more with the status at the end.

    What `send` raises (the server is away, mostly) is a warning, and it is called again later: it must take up where it
    was broken off, and read from the run directory what there is to send, so that nothing has to be kept here.
    """

    def __init__(self, send: Callable[[str], None], seconds: float = 5.0, longest: float = 60.0) -> None:
        self._send, self._seconds, self._longest = send, seconds, longest
        self._status = RUNNING
        self._closing = threading.Event()
        self._away = False
        self._complete = False
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, status: str, seconds: float) -> bool:
        """Send all that is there and the status, within so many seconds; whether it arrived."""
        self._status = status
        self._closing.set()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(seconds)
        return self._complete

    def _run(self) -> None:
        pause = 0.0
        with server.impatient():
            while not self._closing.wait(pause):
                pause = self._seconds if self._attempt(RUNNING) else min(2 * max(pause, self._seconds), self._longest)
            self._complete = self._attempt(self._status)

    def _attempt(self, status: str) -> bool:
        try:
            self._send(status)
        except Exception as error:
            if not self._away:
                text = "MLflow cannot be told how the run goes (%s); the run goes on, what is missing is sent later"
                LOGGER.warning(text, server.reason(error), exc_info=error)
            self._away = True
            return False
        if self._away:
            LOGGER.info("MLflow answers again and has been told everything")
        self._away = False
        return True
