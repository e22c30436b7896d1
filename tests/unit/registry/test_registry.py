"""The parts of the MLflow layer that need no MLflow: addresses, secrets, metrics files, requests."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import BadInput, RosepoError
from rosepo_ray.process.redaction import flatten, redact
from rosepo_ray.registry import reachable, requests, tracking


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/logs", "s3://***@bucket/logs"),
        ("https://token@host:5000/x", "https://***@host:5000/x"),
        ("s3://b/x?access_key=A&region=eu&secret_key=B", "s3://b/x?access_key=***&region=eu&secret_key=***"),
        ("https://h/c?sv=1&sig=abc%3D", "https://h/c?sv=1&sig=***"),
        ("s3://bucket/logs", "s3://bucket/logs"),
        ("/home/me@work/x?", "/home/me@work/x?"),
        ("https://host/path@1", "https://host/path@1"),
        ("0.1", "0.1"),
    ],
)
def test_credentials_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#@"), min_size=4))
def test_a_password_never_survives(password: str) -> None:
    hidden = redact(f"https://me:xx{password}yy@host/path?token=xx{password.replace('&', '')}yy")
    assert hidden == "https://***@host/path?token=***"


def test_settings_become_flat_text_without_secrets() -> None:
    flat = flatten(
        {"align": {"beta": 0.1, "objective": {"type": "robust"}}, "data": {"items": "s3://a:b@c", "x": None}}
    )
    assert flat == {"align.beta": "0.1", "align.objective.type": "robust", "data.items": "s3://***@c", "data.x": "null"}


def test_tracking_address_setting_then_environment_then_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.tracking_uri(MlflowSettings(), "/data/runs/one") == "sqlite:////data/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    assert tracking.tracking_uri(MlflowSettings(), "/data/runs/one") == "http://env"
    assert tracking.tracking_uri(MlflowSettings(tracking_uri="http://set"), "/data/runs/one") == "http://set"


def test_in_a_path_no_sign_means_anything_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking.tracking_uri(MlflowSettings(), "/data/a%41 b?#c/one")
    assert str(reachable.sqlite_file(uri)) == "/data/a%41 b?#c/mlflow.db"
    assert tracking.artifact_location(uri) == "file:///data/a%2541%20b%3F%23c/mlartifacts"
    assert str(reachable.sqlite_file("sqlite:////data/mlflow.db?timeout=9")) == "/data/mlflow.db"


def test_a_remote_run_directory_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI"):
        tracking.tracking_uri(MlflowSettings(), "s3://bucket/run?region=eu-west-1")


@pytest.mark.parametrize("folder", ["mlruns", "file:///tmp/mlruns", "./mlruns"])
def test_a_folder_is_no_tracking_address(folder: str) -> None:
    with pytest.raises(BadInput, match="sqlite"):
        tracking.tracking_uri(MlflowSettings(tracking_uri=folder), "/data/runs/one")


def test_artefacts_stand_beside_the_database() -> None:
    assert tracking.artifact_location("sqlite:////data/runs/mlflow.db") == "file:///data/runs/mlartifacts"
    assert tracking.artifact_location("http://server") is None


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A real HTTP server that answers every GET with the parametrised status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("server", [200, 401, 404], indirect=True)
def test_a_server_that_answers_is_reachable(server: str) -> None:
    reachable.check_http(server)
    reachable.check_http(server.replace("http://", "http://user:word@") + "/")


@pytest.mark.parametrize("server", [503], indirect=True)
def test_a_broken_server_is_refused_without_its_credentials(server: str) -> None:
    with pytest.raises(BadInput, match="answers 503") as caught:
        reachable.check_http(server.replace("http://", "http://user:word@"))
    assert "word" not in str(caught.value)


def test_a_closed_port_is_refused_with_a_sentence() -> None:
    closed = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = closed.server_port
    closed.server_close()
    with pytest.raises(BadInput, match=r"cannot be used .*start it"):
        reachable.check_http(f"http://127.0.0.1:{port}", timeout=2)


@pytest.mark.parametrize("kind", ["below a file", "a folder", "text", "nowhere"])
def test_a_database_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("no database, and longer than the sixteen bytes of SQLite's mark\n" * 20)
    (tmp_path / "folder").mkdir()
    file = {
        "below a file": tmp_path / "file" / "mlflow.db",
        "a folder": tmp_path / "folder",
        "text": tmp_path / "file",
        "nowhere": Path("/proc/none/mlflow.db"),
    }[kind]
    with pytest.raises(BadInput, match=f"the MLflow database {file} cannot be written .*; make it"):
        reachable.check(f"sqlite:///{file}", "rosepo")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_database_on_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        with pytest.raises(BadInput, match=r"cannot be written .*Read-only file system"):
            reachable.check(f"sqlite:///{tmp_path}/deep/mlflow.db", "rosepo")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_database_that_is_not_there_yet_is_not_made_by_asking(tmp_path: Path) -> None:
    reachable.check(f"sqlite:///{tmp_path}/runs/mlflow.db", "rosepo")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_another_run_writes_right_now_can_be_written(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    writer.execute("CREATE TABLE x (y)")
    writer.execute("BEGIN EXCLUSIVE")
    reachable._check_sqlite(tmp_path / "mlflow.db")
    writer.close()


def test_metrics_rows_become_points_at_fixed_times() -> None:
    rows = [{"step": 1, "loss": 0.5, "hr@1": 0.25, "note": None}, {"step": 2, "time": 7.5, "loss": 1}]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    assert tracking.read_metrics(text, 1000) == [
        ("loss", 0.5, 1001, 1),
        ("hr_at_1", 0.25, 1001, 1),
        ("loss", 1.0, 7500, 2),
    ]


@pytest.mark.parametrize("line", ['{"loss": 1}', '{"step": "a", "loss": 1}', '{"step": 1, "loss": "low"}'])
def test_a_row_that_is_no_metric_names_its_line(line: str) -> None:
    with pytest.raises(RosepoError, match="line 1"):
        tracking.read_metrics(line, 0)


KNOWN = {"a", "b", "c"}


def test_a_request_keeps_the_newest_history_and_its_id() -> None:
    row = {"history": ["a", "b", "c"], "candidates": ("b", "a"), "example_id": "u:3"}
    assert requests.read([row], KNOWN, keep=2) == [requests.Ask("u:3", ["b", "c"], ["b", "a"], ["a", "b", "c"])]


def test_without_an_id_ties_depend_on_the_history_alone() -> None:
    first, second = (
        requests.read([{"history": ["a", "b"], "candidates": order, "example_id": float("nan")}], KNOWN, 10)[0]
        for order in (["a", "c"], ["c", "a"])
    )
    assert first.row_id == second.row_id == "a\x1fb"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"candidates": ["a"]}, "no 'history'"),
        ({"history": "abc", "candidates": ["a"]}, "not a list"),
        ({"history": [], "candidates": ["a"]}, "history is empty"),
        ({"history": ["a"], "candidates": []}, "candidates is empty"),
        ({"history": ["z", 1], "candidates": ["a"]}, "2 unknown item"),
        ({"history": ["a"], "candidates": ["a", "a"]}, "twice"),
        ({"history": ["a"] * 1001, "candidates": ["a"]}, "at most 1000"),
        ({"history": None, "candidates": ["a"]}, "not a list"),
    ],
)
def test_a_bad_request_gets_a_sentence_with_its_row(row: dict[str, object], message: str) -> None:
    good = {"history": ["a"], "candidates": ["b"]}
    with pytest.raises(BadInput, match=message) as caught:
        requests.read([good, row], KNOWN, 10)
    assert "row 1" in str(caught.value)


@pytest.mark.parametrize("row", [{}, {"candidates": None}, {"candidates": float("nan")}])
def test_without_candidates_the_whole_catalogue_is_asked_for(row: dict[str, object]) -> None:
    assert requests.read([{"history": ["a"]} | row], KNOWN, 10)[0].candidates is None


def test_a_policy_that_lists_candidates_needs_them_in_every_row() -> None:
    asks = requests.read([{"history": ["a"], "candidates": ["b"]}, {"history": ["a"]}], KNOWN, 10)
    requests.refuse_without_candidates(asks[:1])
    with pytest.raises(BadInput, match="1 of 2 rows, row 1 first, name no candidates"):
        requests.refuse_without_candidates(asks)


@pytest.mark.parametrize(("params", "top"), [(None, 10), ({}, 10), ({"top": 3}, 3), ({"top": 1000}, 50)])
def test_the_number_of_items_asked_for(params: dict[str, object] | None, top: int) -> None:
    assert requests.read_top(params, catalogue=50) == top


@pytest.mark.parametrize("top", [0, -1, 1001, 2.5, True, "5", None])
def test_a_number_of_items_that_cannot_be_is_refused(top: object) -> None:
    with pytest.raises(BadInput, match=r"top is .*; give a whole number from 1 to 1000"):
        requests.read_top({"top": top}, catalogue=50)


def test_whether_repeats_are_asked_for() -> None:
    asked = (None, {}, {"repeats": False}, {"repeats": True})
    assert [requests.read_repeats(params) for params in asked] == [False, False, False, True]
    with pytest.raises(BadInput, match=r"repeats is 'no'; give true or false"):
        requests.read_repeats({"repeats": "no"})


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(BadInput, match="10001 rows"):
        requests.read([{"history": ["a"], "candidates": ["b"]}] * 10_001, KNOWN, 10)
