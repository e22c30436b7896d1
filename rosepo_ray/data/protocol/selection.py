"""Which part of a log is used: a window of time, a share of the users, and what is frequent enough."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rosepo_ray import seeds
from rosepo_ray.config.data import DataSettings
from rosepo_ray.data.protocol.user_log import UserLog
from rosepo_ray.data.reading import parse_columns
from rosepo_ray.errors import BadInput


class Moment(NamedTuple):
    """One end of the window; `value` counts millionths of the log's own unit, or microseconds where it is a date."""

    value: int
    date: bool


class Window(NamedTuple):
    """Times that are not before `since` and before `until`; None is no bound."""

    since: Moment | None
    until: Moment | None


def window(data: DataSettings) -> Window:
    """The window of the settings. Raises BadInput for an end that is no time, or for a window that holds none."""
    since, until = (_moment(name, getattr(data, name)) for name in ("since", "until"))
    if since and until and (since.date != until.date or since.value >= until.value):
        raise BadInput(
            f"data.since {data.since} does not come before data.until {data.until}, so no interaction lies between; "
            "give two numbers or two dates, the earlier one first"
        )
    return Window(since, until)


def _moment(name: str, given: str | None) -> Moment | None:
    if given is None:
        return None
    values, kinds = parse_columns.times(pa.array([given]))
    if values[0].as_py() is None:
        raise BadInput(f"data.{name} is '{given}', which is no time; give a number in the log's unit or an ISO date")
    scale = parse_columns.FRACTION_SCALE if kinds[0] == parse_columns.INTEGER else 1
    return Moment(values[0].as_py() * scale, bool(kinds[0] == parse_columns.DATE))


def inside(within: Window, times_N: np.ndarray, kinds_N: np.ndarray) -> np.ndarray:
    """Which of N times lie in the window: bool [N]. Raises BadInput where a bound is a date and a time is not."""
    mask = np.ones(len(times_N), bool)
    for name, moment in within._asdict().items():
        if moment is not None:
            early = _before(name, moment, times_N, kinds_N)
            mask &= ~early if name == "since" else early
    return mask


def _before(name: str, moment: Moment, times_N: np.ndarray, kinds_N: np.ndarray) -> np.ndarray:
    if ((kinds_N == parse_columns.DATE) != moment.date).any():
        said = ("a date", "numbers") if moment.date else ("a number", "dates")
        raise BadInput(f"data.{name} is {said[0]}, but the times of the log are {said[1]}; give it as the log does")
    if moment.date:
        return times_N < moment.value
    whole = -(-moment.value // parse_columns.FRACTION_SCALE)  # a whole number comes before 2.5 as it does before 3
    return np.where(kinds_N == parse_columns.INTEGER, times_N < whole, times_N < moment.value)


def sampled(users: list[str], share: float, seed: int) -> np.ndarray:
    """Which users belong to a sample of that share, by a hash of each: bool [U]. A larger share holds a smaller one."""
    return np.fromiter((seeds.derive(seed, "users", user) < share * 2.0**63 for user in users), bool, len(users))


def subset(log: UserLog, chosen_N: np.ndarray) -> UserLog:
    """The log with some interactions, and the users that have one of these."""
    users, user_N = np.unique(log.user_N[chosen_N], return_inverse=True)
    return UserLog(
        [log.users[user] for user in users],
        user_N.astype(np.int32),
        *(values[chosen_N] for values in (log.item_N, log.time_N, log.kept_N)),
    )


def not_overactive(log: UserLog, most: int) -> np.ndarray:
    """Mask [N] of the interactions of users that have `most` at most."""
    return np.bincount(log.user_N, minlength=len(log.users))[log.user_N] <= most


def frequent(log: UserLog, alive_I: np.ndarray, min_user: int) -> np.ndarray:
    """Mask [N] of the interactions with items that are alive, of users with `min_user` kept ones among them."""
    alive_N = alive_I[log.item_N]
    kept_U = np.bincount(log.user_N[alive_N & log.kept_N], minlength=len(log.users))
    return alive_N & (kept_U[log.user_N] >= min_user)
