"""The errors a user can meet. Each message says what was given, why it cannot work and what to do."""

from __future__ import annotations


class RosepoError(Exception):
    """Root of every error that this project raises on purpose. Jobs exit with `exit_code`."""

    exit_code = 1


class BadInput(RosepoError):
    """The settings, files or arguments given by the user cannot work; nothing was written."""

    exit_code = 2


class Refused(RosepoError):
    """The work was understood and declined: a gate failed or a check found an unsafe state."""

    exit_code = 3
