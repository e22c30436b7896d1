"""Disks that are full: noticed in whatever a library raises, told in one sentence, and checked before a run."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rosepo_ray.errors import NoSpace, RosepoError, chain, original

MINIMUM_BYTES = 256 << 20
"""Free bytes that a run asks for before it starts. docs/run-directory.md says where the figure comes from."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
# safetensors, SQLite and Ray raise errors of their own; a task's error that cannot be pickled is only text.
_TEXT = re.compile(
    r"no space left on device|disk quota exceeded|database or disk is full|local disk is full", re.IGNORECASE
)


def is_full(error: BaseException) -> bool:
    """Whether a full disk (or quota) is among what `error` holds."""
    return any(
        (isinstance(found, OSError) and found.errno in _FULL) or _TEXT.search(str(found)) for found in chain(error)
    )


def told(error: BaseException, run_dir: str) -> RosepoError | None:
    """What a user is told of `error`: the project's own error inside it, or NoSpace where a disk is full; else None."""
    own = original(error)
    if isinstance(own, NoSpace) or (own is not None and type(own) is not RosepoError):
        return own
    return no_space([run_dir, tempfile.gettempdir()]) if is_full(error) else own


def no_space(folders: Iterable[str]) -> NoSpace:
    """The error for the user: how much is free in each local folder, on this machine, right now."""
    known = {folder: free_bytes(folder) for folder in folders if "://" not in folder}
    state = ", ".join(f"{folder} has {amount(free)} free" for folder, free in known.items())
    return NoSpace(f"no disk space left on {socket.gethostname()} ({state or 'remote storage'}); free some there")


@contextmanager
def guarded(folder: str) -> Iterator[None]:
    """Turns the full-disk error of a block that writes to `folder` into NoSpace, told where it happened."""
    try:
        yield
    except RosepoError:
        raise
    except Exception as error:
        if is_full(error):
            raise no_space([folder]) from error
        raise


def free_bytes(folder: str) -> int:
    """Free bytes for this user where `folder` is or would be."""
    return shutil.disk_usage(next(path for path in (Path(folder), *Path(folder).parents) if path.exists())).free


def amount(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def refuse_full_disk(run_dir: str, least: int) -> None:
    """Raises NoSpace where a local run directory has less than `least` bytes; writes nothing."""
    if "://" in run_dir:
        return
    free = free_bytes(run_dir)
    if free < least:
        raise NoSpace(
            f"the run directory {run_dir} has {amount(free)} of disk space left, and a run needs {amount(least)} at "
            "least; free some or give another --run.dir"
        )
