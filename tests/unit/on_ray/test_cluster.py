"""Addresses where no cluster can be, and temporary folders too deep for Ray's sockets, known before Ray is asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import cluster


def test_the_address_of_a_dashboard_is_refused():
    with pytest.raises(BadInput, match=r"'http://127\.0\.0\.1:8265' is that of a dashboard, which `ray job submit`"):
        cluster._refuse_dead_address("http://127.0.0.1:8265")


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nothing_listens_is_refused_and_one_where_something_does_is_not(address: str):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        where = address.format(server.getsockname()[1])
        server.listen()
        cluster._refuse_dead_address(where)
    with pytest.raises(BadInput, match="nothing listens at the Ray address"):
        cluster._refuse_dead_address(where)


@pytest.mark.parametrize("word", ["auto", "local"])
def test_rays_own_words_are_left_to_it(word: str):
    cluster._refuse_dead_address(word)


def test_a_temporary_folder_too_deep_for_sockets_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert cluster._short_folder() is None
    monkeypatch.setattr("tempfile.tempdir", "/tmp/" + "d" * 60)
    assert cluster._short_folder() == "/tmp/ray"
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert cluster._short_folder() is None
