"""How long to wait before an oracle is asked again."""

from __future__ import annotations

from rosepo_ray.seeds import derive

FIRST_PAUSE = 0.5
"""Seconds before the second attempt; doubled each time, up to LONGEST_PAUSE, times a jitter of 0.5 to 1.5."""
LONGEST_PAUSE = 15.0


def pause(attempt: int, who: str) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): exponential, with a jitter fixed by `who`, so
    that callers who failed together do not come back together."""
    jitter = 0.5 + derive(0, "oracle retry", who, attempt) / float(1 << 63)
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt) * jitter
