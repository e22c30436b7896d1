"""The tracking server: which one, and a sentence within seconds where it cannot be used."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rosepo_ray.config.mlflow import MlflowSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.registry import server


def test_tracking_address_setting_then_environment_then_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert server.tracking_uri(MlflowSettings(), "/data/runs/one") == "sqlite:////data/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    assert server.tracking_uri(MlflowSettings(), "/data/runs/one") == "http://env"
    assert server.tracking_uri(MlflowSettings(tracking_uri="http://set"), "/data/runs/one") == "http://set"


def test_a_remote_run_directory_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI"):
        server.tracking_uri(MlflowSettings(), "s3://bucket/run?region=eu-west-1")


@pytest.mark.parametrize("folder", ["mlruns", "file:///tmp/mlruns", "./mlruns"])
def test_a_folder_is_no_tracking_address(folder: str) -> None:
    with pytest.raises(BadInput, match="sqlite"):
        server.tracking_uri(MlflowSettings(tracking_uri=folder), "/data/runs/one")


def test_artefacts_stand_beside_the_database() -> None:
    assert server.artifact_location("sqlite:////data/runs/mlflow.db") == "file:///data/runs/mlartifacts"
    assert server.artifact_location("http://server") is None


@pytest.mark.parametrize(
    ("setting", "variable", "kept", "uri"),
    [
        ("http://set", "http://env", "http://kept", "http://set"),
        (None, "http://env", "http://kept", "http://env"),
        (None, None, "http://kept", "http://kept"),
        ("https://***@host", "https://me:word@host", "https://***@host", "https://me:word@host"),
    ],
)
def test_the_record_of_a_run_is_where_the_settings_the_environment_or_the_run_say(
    setting: str | None, variable: str | None, kept: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert server.recorded_uri(MlflowSettings(tracking_uri=setting), kept) == uri


def test_an_address_kept_without_its_credentials_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(BadInput, match="without its credentials"):
        server.recorded_uri(MlflowSettings(tracking_uri="https://***@host"), "https://***@host")
    with pytest.raises(BadInput, match="nothing says where"):
        server.recorded_uri(MlflowSettings(), None)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", " ", "a "])
def test_a_model_name_that_no_address_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model"):
        MlflowSettings(model=name)


def test_an_experiment_needs_a_name() -> None:
    with pytest.raises(ValueError, match="experiment"):
        MlflowSettings(experiment="")


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """A real HTTP server that answers every request with the parametrised status; with 0 it answers nothing."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if request.param == 0:
                over.wait(60)
            self.send_response(request.param or 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://me:hunter2@127.0.0.1:{http.server_port}"
    over.set()
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answering", "why"), [(401, "401"), (503, "503"), (0, "no answer within 1 second")], indirect=["answering"]
)
def test_a_server_that_gives_no_good_answer_is_refused_in_bounded_time(
    answering: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SECONDS", 10.0 if why.isdigit() else 1.0)
    server.quiet()
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"the MLflow server http://\*\*\*@127.*cannot be used \(.*") as caught:
        server.refuse_unusable(MlflowSettings(), answering)
    assert time.monotonic() - began < 12
    told = str(caught.value)
    assert why in told
    assert "hunter2" not in told
    assert "\n" not in told


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    server.quiet()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and never listens
        began = time.monotonic()
        with pytest.raises(BadInput, match=r"cannot be used \(.*Connection refused.*start it"):
            server.refuse_unusable(MlflowSettings(), f"http://127.0.0.1:{held.getsockname()[1]}")
    assert time.monotonic() - began < 5


def test_a_database_server_that_is_not_there_is_refused_in_a_sentence() -> None:
    """By its driver; or, where none is installed as here, by that."""
    with pytest.raises(BadInput, match=r"the MLflow server postgresql://\*\*\*@127.* cannot be used \(") as caught:
        server.refuse_unusable(MlflowSettings(), "postgresql://user:hunter2@127.0.0.1:9/mlflow")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


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
        server.refuse_unusable(MlflowSettings(), f"sqlite:///{file}")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_database_on_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        with pytest.raises(BadInput, match=r"cannot be written .*Read-only file system"):
            server.refuse_unusable(MlflowSettings(), f"sqlite:///{tmp_path}/deep/mlflow.db")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_database_that_another_run_writes_right_now_can_be_written(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    writer.execute("CREATE TABLE x (y)")
    writer.execute("BEGIN EXCLUSIVE")
    server._refuse_unwritable(tmp_path / "mlflow.db")
    writer.close()


def test_patience_is_the_users_where_the_environment_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    import os

    with server.impatient():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_in_a_path_no_sign_means_anything_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = server.tracking_uri(MlflowSettings(), "/data/a%41 b?#c/one")
    assert str(server._sqlite_file(uri)) == "/data/a%41 b?#c/mlflow.db"
    assert server.artifact_location(uri) == "file:///data/a%2541%20b%3F%23c/mlartifacts"
    assert str(server._sqlite_file("sqlite:////data/mlflow.db?timeout=9")) == "/data/mlflow.db"
