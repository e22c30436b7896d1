"""How runs fail: what is said, where the log is, what continues; full disks; silent servers. Without Ray."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rosepo_ray import storage
from rosepo_ray.errors import BadInput, NoSpace, Refused, RosepoError, Stopped, short
from rosepo_ray.on_ray import cluster
from rosepo_ray.run import directory, failure, job, pipeline, preflight
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.storage import disk_space, done
from tests import finished_run
from tests.synthetic import tiny

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for the file: its first touch takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Callable[..., int]:
    """Runs the job in this process, without a cluster, with stages that finish at once until one raises `error`."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny(tmp_path / "log")))
    monkeypatch.setattr(cluster, "start", lambda settings, served: True)
    monkeypatch.setattr(cluster, "stop", lambda: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")

    def run(error: BaseException | None, at: str = "sft", *arguments: str) -> int:
        def stage(self: pipeline.Stage, settings: Any, inputs: Any, out: str) -> dict[str, Any]:
            storage.write_json(storage.join(out, "result.json"), {})
            if self.name == at and error is not None:
                raise error
            return finished_run.INFO[self.name]

        monkeypatch.setattr(pipeline.Stage, "start", stage)
        return job.main(["--recipe", str(recipe), "--run.dir", str(tmp_path / "run"), *arguments], "jobs/align.py", "")

    return run


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "code", "sentence", "next_words"),
    [
        (BadInput("3 given, 4 wanted, add one"), 2, "sft: 3 given, 4 wanted, add one", "would end the same way"),
        (Refused("not the model of the pairs"), 3, "sft: not the model of the pairs", "would be refused again"),
        (
            RosepoError("it went wrong"),
            1,
            "sft: it went wrong",
            "continues: data is kept, sft goes on with what it has",
        ),
        (ValueError("boom\nof two lines"), 1, "sft: ValueError: boom of two lines", "continues: data is kept, sft"),
        (Stopped("stopped on request"), 143, "sft: stopped on request", "continues: data is kept, sft"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "sft: no disk space left on ", "continues: data is kept"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 2, "sft: no disk space left on ", "continues: data is kept"),
        (KeyboardInterrupt(), 130, "interrupted", "continues: data is kept, sft"),
        (SystemExit(15), 143, "stopped by SIGTERM", "continues: data is kept, sft"),  # Ray's own handler
    ],
)
def test_a_failure_says_what_where_and_what_next(
    failing: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    sentence: str,
    next_words: str,
):
    assert failing(error) == code
    lines = shown(capsys)
    assert lines[-3].startswith(f"error: {sentence}")
    # Ray's own logs are named as well where it runs, as it does beside the integration tests.
    assert lines[-2].split("; what Ray's")[0] == f"The full log: {tmp_path}/run/run.log"
    assert lines[-1].startswith(f"The same command with --run.dir {tmp_path}/run {next_words}")
    assert not any("Traceback" in line for line in lines)
    text = (tmp_path / "run" / "run.log").read_text()
    assert "Traceback" in text
    assert f"{type(error).__name__}" in text


def test_the_same_command_continues_as_was_said_and_the_log_and_settings_stay(
    failing: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert failing(ValueError("first"), "reject") == 1
    before = (tmp_path / "run" / "settings.yaml").read_bytes()
    log = (tmp_path / "run" / "run.log").read_text()
    assert failing(ValueError("second"), "align") == 1
    lines = shown(capsys)
    assert lines[-1].endswith("data, sft, oracle, reject, calibrate are kept, align goes on with what it has stored")
    assert [line.split()[0] for line in lines if "done before" in line] == ["data", "sft", "oracle"]
    assert (tmp_path / "run" / "settings.yaml").read_bytes() == before
    assert (tmp_path / "run" / "run.log").read_text().startswith(log)


def test_the_ending_in_json(failing: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert failing(ValueError("boom"), "sft", "--run.log", "json") == 1
    lines = [json.loads(line) for line in shown(capsys)]
    assert [line["level"] for line in lines[-3:]] == ["ERROR", "INFO", "INFO"]
    records = [json.loads(line) for line in (tmp_path / "run" / "run.log").read_text().splitlines()]
    failed = next(record for record in records if record["level"] == "ERROR")
    assert failed["message"] == "sft: ValueError: boom"
    assert "ValueError: boom" in failed["exception"]
    assert {record["stage"] for record in records} == {None, "data", "sft"}


def test_pages_of_text_end_as_one_line(failing: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert failing(RosepoError("training failed: " + "a page\n" * 500)) == 1
    (line,) = [line for line in shown(capsys) if line.startswith("error")]
    assert len(line) < 1100
    assert (tmp_path / "run" / "run.log").read_text().count("a page") >= 500


def test_rays_exceptions_give_way_to_what_they_wrap():
    from ray.exceptions import RayTaskError
    from ray.train import WorkerGroupError

    inner = RayTaskError("f", "Traceback …\n" * 80, KeyError("boom"))
    assert short(inner) == "KeyError: 'boom'"
    assert short(WorkerGroupError("pages", {1: inner})) == "KeyError: 'boom'"
    assert disk_space.is_full(WorkerGroupError("pages", {0: OSError(errno.ENOSPC, "full")}))
    told = BadInput("given, wanted, do")
    assert disk_space.told(WorkerGroupError("pages", {0: RayTaskError("f", "text", told)}), "/tmp") is told
    assert disk_space.told(WorkerGroupError("pages", {0: KeyError("x")}), "/tmp") is None
    # A task's error that could not be pickled is left as text alone.
    assert disk_space.is_full(RuntimeError("safetensors: I/O error: No space left on device (os error 28)"))
    assert not disk_space.is_full(OSError(errno.EACCES, "Permission denied"))


@pytest.mark.parametrize(
    ("stage", "files", "whole", "words"),
    [
        ("data", ["items/part-0.parquet"], [], "starts from its beginning"),  # it empties its folder
        ("sft", [], [], "starts from its beginning"),
        ("sft", ["train/controller.json"], [], "trains from its first step"),
        ("sft", ["checkpoints/step-00000010/weights"], [], "trains from its first step"),  # killed while writing it
        ("sft", [], ["checkpoints/step-00000010", "checkpoints/step-00000020"], "goes on after step 20"),
        ("oracle", ["fold0/metrics.jsonl"], ["fold1/checkpoints/step-00000007"], "goes on after step 7 of fold1"),
        ("reject", ["pairs/part-0.parquet"], [], "goes on with what it has stored"),
    ],
)
def test_where_a_stage_goes_on_is_read_from_its_folder(
    tmp_path: Path, stage: str, files: list[str], whole: list[str], words: str
):
    settings = build(tiny(tmp_path / "log"))
    folder = fill(settings, tmp_path, stage, files, whole)
    text = failure._next(RosepoError("x"), settings, str(tmp_path / "run"), None)
    assert text.endswith(f"{stage} {words}")
    if words == "goes on after step 20":
        Path(folder, "checkpoints/step-00000020/weights").write_bytes(b"cut short")
        text = failure._next(RosepoError("x"), settings, str(tmp_path / "run"), None)
        assert text.endswith("sft goes on after step 10")


def fill(settings: Settings, tmp_path: Path, stage: str, files: list[str], whole: list[str]) -> str:
    """Finish the stages before `stage` and write files and whole checkpoints into its folder."""
    for step in pipeline.plan(settings, str(tmp_path / "run")):
        if step.stage.name != stage:
            done.write(step.folder, {}, 1.0)
            continue
        for name in files:
            storage.write_json(storage.join(step.folder, name), {})
        for name in whole:
            storage.write_bytes(storage.join(step.folder, name, "weights"), b"weights of the checkpoint")
            done.write(storage.join(step.folder, name), {}, 0.0)
        return step.folder
    raise AssertionError(stage)


def test_bad_settings_are_one_sentence_without_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert job.main(["--run.dir", str(tmp_path / "run"), "--sft.stepz", "3"], "align", "") == 2
    assert len(shown(capsys)) == 1
    assert not (tmp_path / "run").exists()


def test_what_the_file_system_refuses_before_the_log_is_one_sentence(
    failing: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The run directory's name is too long to be looked up; a file stands where the logs belong."""
    assert failing(None, "sft", "--run.dir", str(tmp_path / ("x" * 300))) == 2
    (line,) = shown(capsys)
    assert line.startswith(f"error: the run directory {tmp_path}/xxx")
    assert "cannot be read (OSError: [Errno 36]" in line
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").write_text("")
    assert failing(None) == 2
    (line,) = shown(capsys)
    assert line.startswith("error: the run cannot begin (FileExistsError: ")
    assert f"{tmp_path}/run/logs" in line


def test_an_object_store_that_refuses_is_one_sentence(tmp_path: Path):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        done = job_process(
            "--run.dir",
            "s3://bucket/run",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}",
            AWS_ACCESS_KEY_ID="someone",
            AWS_SECRET_ACCESS_KEY="wrong",
            AWS_REGION="eu-west-1",
            AWS_EC2_METADATA_DISABLED="true",
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the run directory s3://bucket/run cannot be read (")
    assert "ACCESS_DENIED" in line


def test_a_run_that_began_during_the_checks_is_not_written_over(
    failing: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def meanwhile(settings: Settings) -> None:
        directory.record(settings.model_copy(update={"seed": 77}), str(tmp_path / "run"))

    monkeypatch.setattr(preflight, "refuse_hopeless_run", meanwhile)
    assert failing(None) == 2
    (line,) = shown(capsys)
    assert "holds a run with other settings (seed is 77 there and " in line
    assert yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["seed"] == 77
    assert not (tmp_path / "run" / "run.log").exists()


def job_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "jobs/align.py", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
    )


def test_a_tracking_server_that_does_not_answer_is_refused_before_anything_is_written(tmp_path: Path):
    run_dir, began = tmp_path / "run", time.monotonic()
    done = job_process("--run.dir", str(run_dir), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert time.monotonic() - began < 60  # five on an idle machine, nearly all of it the import of torch and MLflow
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the MLflow server http://127.0.0.1:9 cannot be used")
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    free = shutil.disk_usage(tmp_path).free
    disk_space.refuse_full_disk(str(tmp_path / "a" / "b"), free // 2)
    with pytest.raises(NoSpace, match=r"and a run needs .* at least"):
        disk_space.refuse_full_disk(str(tmp_path / "a" / "b"), free * 2)
    disk_space.refuse_full_disk("s3://bucket/run", free * 2)  # nobody knows how much is free there
    monkeypatch.setattr(disk_space, "MINIMUM_BYTES", free * 2)
    assert job.main(["--run.dir", str(tmp_path / "run")], "align", "") == 2
    assert "disk space left" in shown(capsys)[0]
    assert list(tmp_path.iterdir()) == []


def test_the_device_that_is_always_full_is_told_as_such():
    """The errors of Python, of Arrow and of torch, as the kernel makes them."""
    import torch
    from pyarrow import fs

    def python() -> None:
        with open("/dev/full", "wb") as file:
            file.write(b"x")

    def arrow() -> None:
        with fs.LocalFileSystem().open_output_stream("/dev/full") as stream:
            stream.write(b"x")

    def parquet() -> None:
        with open("/dev/full", "wb") as file:  # given the path, pyarrow would remove the device after the failure
            pq.write_table(pa.table({"x": [1]}), file)

    def torch_to_file() -> None:
        with open("/dev/full", "wb") as file:
            torch.save(torch.zeros(1000), file)

    for write in (python, arrow, parquet, torch_to_file):
        with pytest.raises(NoSpace, match=r"no disk space left on .*/dev has .* free"), disk_space.guarded("/dev"):
            write()
    with pytest.raises(FileNotFoundError), disk_space.guarded("/dev"):
        Path("/nowhere/at/all").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte, where the tests may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_write_that_does_not_fit_leaves_nothing_behind(small_disk: Path, tmp_path: Path):
    storage.write_bytes(str(small_disk / "table"), b"before")
    with pytest.raises(NoSpace, match=f"{small_disk} has"):
        storage.write_bytes(str(small_disk / "table"), b"x" * (2 << 20))
    assert [path.name for path in small_disk.iterdir()] == ["table"]
    assert (small_disk / "table").read_bytes() == b"before"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"x" * (2 << 20))
    with pytest.raises(NoSpace):
        storage.upload_folder(tmp_path / "model", str(small_disk / "model"))
    assert storage.list_files(str(small_disk)) == ["table"]
    assert [path for path in small_disk.rglob("*") if path.is_file()] == [small_disk / "table"]


def test_safetensors_on_a_full_disk(small_disk: Path):
    import torch
    from safetensors.torch import save_file

    with pytest.raises(NoSpace), disk_space.guarded(str(small_disk)):
        save_file({"x": torch.zeros(1 << 20)}, small_disk / "weights.safetensors")
