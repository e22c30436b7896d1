"""One thread for a search, whatever other threads of the process do meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from rosepo_ray.policy.threads import one_thread


@pytest.fixture
def three() -> Iterator[None]:
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def in_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("three")
def test_one_inside_and_as_before_outside():
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three")
def test_overlapping_calls_leave_nothing_behind():
    """The first to come leaves first, while the second is inside; neither takes the other's one for its own before."""
    second_is_in, first_is_out, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        with one_thread():
            second_is_in.set()
            first_is_out.wait(10)
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())

    with one_thread():
        assert in_a_new_thread() == 3
        thread = threading.Thread(target=second)
        thread.start()
        second_is_in.wait(10)
        assert torch.get_num_threads() == 1
    first_is_out.set()
    thread.join()
    assert seen == [1, 3]
    assert (torch.get_num_threads(), in_a_new_thread()) == (3, 3)
