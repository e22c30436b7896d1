"""The errors a user can meet. Each message says what was given, why it cannot work and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class RosepoError(Exception):
    """Root of every error that this project raises on purpose. Jobs exit with `exit_code`."""

    exit_code = 1
    stage: str | None = None
    """The stage that it ended, set by the pipeline."""
    ray_logs: str | None = None
    """Folder of Ray's own logs, set by the pipeline where they may tell more than the run's log."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        # Not from `args`: Ray Data writes its advice on retries into those of whatever an actor raises.
        return self.sentence


class BadInput(RosepoError):
    """The settings, files or arguments given by the user cannot work; nothing was written."""

    exit_code = 2


class Refused(RosepoError):
    """The work was understood and declined: a gate failed or a check found an unsafe state."""

    exit_code = 3


class NoSpace(RosepoError):
    """A disk is full. Unlike after BadInput, the same command continues once there is space."""

    exit_code = 2


class Stopped(RosepoError):
    """Stopped on request (SIGTERM); state is kept."""

    exit_code = 143


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and everything inside it, nearest first: causes, contexts, and what Ray wrapped on the way from a
    worker."""
    waiting, seen = [error], {id(error)}
    while waiting:
        here = waiting.pop(0)
        yield here
        inner = [here.__cause__, here.__context__, *_wrapped(here)]
        for found in inner:
            if isinstance(found, BaseException) and id(found) not in seen:
                seen.add(id(found))
                waiting.append(found)


def original(error: BaseException) -> RosepoError | None:
    """The RosepoError inside what Ray wrapped around it on the way from a worker, or None.

    What `ray.get` raises is a RosepoError too, of a class that Ray derives from the error's own: its text is the whole
    remote traceback, so what it wraps is returned.
    """
    for found in chain(error):
        told = found if isinstance(found, RosepoError) and not _by_ray(found) else _of_constructor(found)
        if told is not None:
            return told
    return None


def short(error: BaseException, width: int = 300) -> str:
    """`Type: message` on one line. Ray's exceptions carry pages of text: what they wrap speaks in their place."""
    here, seen = error, {id(error)}
    while _by_ray(here):
        found = [*_wrapped(here), here.__cause__]
        # Ray Data hangs an empty SystemException below whatever it takes for its own failure.
        inner = [each for each in found if isinstance(each, BaseException) and not _says_nothing(each)]
        if not inner or id(inner[0]) in seen:
            break
        here = inner[0]
        seen.add(id(here))
    own = here if isinstance(here, RosepoError) else _of_constructor(here)
    if own is not None:
        return clip(str(own), width)
    if getattr(here, "actor_init_failed", False):
        return clip(str(here).strip().splitlines()[-1], width)  # where a traceback names its error
    text = " ".join(str(here).split())
    return clip(f"{type(here).__name__}: {text}" if text else type(here).__name__, width)


def clip(text: str, width: int) -> str:
    """The text on one line and not longer than `width`."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 2].rstrip() + " …"


def _by_ray(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def _says_nothing(error: BaseException) -> bool:
    return _by_ray(error) and not str(error) and not any(_wrapped(error))


_RAISED = re.compile(rf"^{re.escape(__name__)}\.(\w+): (.+)$", re.MULTILINE)


def _of_constructor(error: BaseException) -> RosepoError | None:
    """The RosepoError that ended an actor's constructor: of such an error Ray keeps the traceback's text alone."""
    raised = _RAISED.findall(str(error)) if getattr(error, "actor_init_failed", False) else []
    kind = globals().get(raised[-1][0]) if raised else None
    return kind(raised[-1][1]) if isinstance(kind, type) and issubclass(kind, RosepoError) else None


def _wrapped(error: BaseException) -> list[object]:
    """What Ray keeps beside `__cause__`: a task's cause, a training worker's or the controller's failure."""
    workers = list(getattr(error, "worker_failures", {}).values())
    return [*workers, *(getattr(error, name, None) for name in ("controller_failure", "_base_exc", "cause"))]
