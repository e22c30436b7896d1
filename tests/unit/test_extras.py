"""Without an extra: one sentence with the command that brings it, and whatever does not need it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rosepo_ray import extras
from rosepo_ray.errors import BadInput

ROOT = Path(__file__).parents[2]


def python(code: str, blocked: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process where the blocked modules cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
    command = [sys.executable, "-c", block + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


ROSEPO = "from rosepo_ray.run.commands import main; sys.exit(main())"


def test_a_module_that_is_there_is_not_missed():
    extras.need("json", "ray", "this")


def test_a_missing_one_is_named_with_the_command():
    with pytest.raises(BadInput) as error:
        extras.need("no_such_module", "ray", "the pipeline")
    assert str(error.value) == (
        "the pipeline needs no_such_module, which is not installed; run: pip install 'rosepo_ray[ray]'"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [["align"], ["align", "--dry-run"], ["stage", "data"]], ids=" ".join)
def test_the_pipeline_without_ray(command: list[str], tmp_path: Path):
    done = python(ROSEPO, ("ray",), *command, "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == "error: the pipeline needs ray, which is not installed; run: pip install 'rosepo_ray[ray]'\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_pipeline_without_mlflow(tmp_path: Path):
    done = python(ROSEPO, ("mlflow",), "align", "--run.dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "needs mlflow, which is not installed; run: pip install 'rosepo_ray[mlflow]'" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_help_and_version_need_no_extra():
    blocked = ("ray", "mlflow", "peft", "gguf", "accelerate", "pandas", "rich")
    for arguments in (["--version"], ["align", "--help"]):
        done = python(ROSEPO, blocked, *arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_lora_without_peft():
    code = (
        "from rosepo_ray.config.policy import PretrainedPolicy\nfrom rosepo_ray.errors import BadInput\n"
        "from rosepo_ray.policy.checks.weights import refuse_unusable_model\n"
        "try: refuse_unusable_model(PretrainedPolicy(model='any/model'), 100)\nexcept BadInput as error: print(error)"
    )
    done = python(code, ("peft",))
    assert done.stdout == "policy.lora needs peft, which is not installed; run: pip install 'rosepo_ray[peft]'\n"


@pytest.mark.slow
def test_every_library_room_loads_without_the_extras():
    code = (
        "import pkgutil, rosepo_ray\n"
        "for info in pkgutil.walk_packages(rosepo_ray.__path__, 'rosepo_ray.', lambda name: None):\n"
        "    if info.name.split('.')[1] not in ('registry', 'on_ray', 'stages', 'run'): __import__(info.name)\n"
    )
    skip = "sys.modules['pandas'] = None\n"
    done = python(skip + code, ("ray", "mlflow", "peft", "gguf", "rich"))
    assert done.returncode == 0, done.stderr
