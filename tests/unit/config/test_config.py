"""Settings: where they come from, what is refused, and in which words."""

import subprocess
import sys
from pathlib import Path

import pytest

from rosepo_ray.errors import BadInput
from rosepo_ray.run.sources import build, merge, parse, read_recipe, recipe_names


def settings(*argv: str):
    return parse(argv, "align.py", "test").settings


def test_precedence_is_defaults_recipe_environment_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tmp_path / "own.yaml"
    recipe.write_text("# python jobs/align.py --recipe own.yaml\nalign: {epochs: 2, batch: 8, lr: 3.0e-4}\n")
    monkeypatch.setenv("ROSEPO_ALIGN__BATCH", "16")
    monkeypatch.setenv("ROSEPO_ALIGN__LR", "5e-4")
    found = settings("--recipe", str(recipe), "--align.lr", "0.001").align
    assert (found.epochs, found.batch, found.lr, found.clip) == (2, 16, 0.001, 1.0)


def test_a_section_whose_type_changes_starts_afresh():
    low = {"policy": {"type": "scratch", "hidden": 64}, "align": {"beta": 0.2}}
    merged = merge(low, {"policy": {"type": "pretrained", "model": "x"}})
    assert merged == {"policy": {"type": "pretrained", "model": "x"}, "align": {"beta": 0.2}}
    assert merge(low, {"policy": {"hidden": 32}})["policy"] == {"type": "scratch", "hidden": 32}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--nonsense", "3"), "--help"),
        (("--align.objective.beta", "-1"), "align.objective.beta"),
        (("--align.objective.beta", "much"), "align.objective.beta"),
        (("--recipe", "no-such"), "quickstart"),
        (("--data.sample", "none"), "data.interactions"),
        (("--data.interactions", "a.csv"), "--data.sample none"),
        (("--prompt.list_candidates", "true"), "no effect"),
        (("--prompt.template", "instruction"), "sft.dense"),
        (("--align.objective.type", "robust"), "epsilon_max"),
        (("--oracle.type", "constant", "--oracle.epsilon_max", "0.3"), "no such setting with oracle.type constant"),
        (("--policy.type", "pretrained"), "model"),
        (("--policy.hidden", "100", "--policy.heads", "3"), "multiple"),
        (("--cluster.oracle_replicas_min", "3"), "oracle_replicas_max"),
    ],
)
def test_what_cannot_work_is_one_sentence_that_names_the_setting(argv: tuple[str, ...], words: str):
    with pytest.raises(BadInput, match=words) as caught:
        settings(*argv)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_names_in_recipe_and_environment_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadInput, match=r"align\.betta: no such setting"):
        build({"align": {"betta": 1}})
    monkeypatch.setenv("ROSEPO_ALIGN__BETTA", "1")
    with pytest.raises(BadInput, match="betta"):
        settings()
    monkeypatch.delenv("ROSEPO_ALIGN__BETTA")
    monkeypatch.setenv("ROSEPO_SEEED", "1")
    with pytest.raises(BadInput, match="ROSEPO_SEEED"):
        settings()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds(name: str):
    build(read_recipe(name))


def test_help_names_every_section():
    done = subprocess.run(
        [sys.executable, "jobs/align.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    for word in (
        "--align.objective.beta",
        "--data.interactions",
        "--recipe",
        "--dry-run",
        "--cluster.workers",
        "ROSEPO_",
    ):
        assert word in done.stdout


def test_settings_import_neither_ray_nor_transformers():
    code = (
        "import sys; from rosepo_ray.run.sources import parse; parse([], 'x', 'y'); "
        "sys.exit(bool({'ray', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
