"""The errors a user can meet. Each message says what was given, why it cannot work and what to do."""

from __future__ import annotations


class RosepoError(Exception):
    """Root of every error that this project raises on purpose. Jobs exit with `exit_code`."""

    exit_code = 1


def original(error: BaseException) -> RosepoError | None:
    """The RosepoError inside what Ray wrapped around it on the way from a worker, or None."""
    waiting, seen = [error], set()
    while waiting:
        here = waiting.pop(0)
        if isinstance(here, RosepoError):
            return here
        seen.add(id(here))
        inner = [here.__cause__, here.__context__, getattr(here, "cause", None)]
        inner += list(getattr(here, "worker_failures", {}).values())
        waiting += [e for e in inner if isinstance(e, BaseException) and id(e) not in seen]
    return None


class BadInput(RosepoError):
    """The settings, files or arguments given by the user cannot work; nothing was written."""

    exit_code = 2


class Refused(RosepoError):
    """The work was understood and declined: a gate failed or a check found an unsafe state."""

    exit_code = 3
