"""Settings that cannot work: one sentence on stderr, exit code 2, nothing written, known before Ray is imported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rosepo_ray.errors import BadInput
from rosepo_ray.run import directory, unused_settings
from rosepo_ray.run.job import main
from rosepo_ray.run.sources import build, parse, read_recipe, recipe_names


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The sentence with which the job refuses; asserts all that holds for every refusal."""
    before = sorted(Path.cwd().rglob("*"))
    assert main([*argv, "--run.dir", "run"], "jobs/align.py", "test") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before
    return told


def recipe(text: str) -> tuple[str, str]:
    Path("own.yaml").write_text(text, encoding="utf-8")
    return "--recipe", "own.yaml"


PRETRAINED = ("--policy.type", "pretrained", "--policy.model", "some/model")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--align.objective.betta", "1"), "did you mean align.objective.beta?"),
        (("--algin.lr", "1"), "algin: no such setting; did you mean align?"),
        (("something",), "'something' is no option"),
        (("--align.objective.beta",), "--align.objective.beta needs a value"),
        (("--recipe",), "--recipe needs a value"),
        (("--recipe", "nowhere.yaml"), "no recipe 'nowhere.yaml'"),
        (("--align", "3"), "align: this is a section"),
        (("--sft.steps", "1.5"), "sft.steps: Input should be a valid integer"),
        (("--sft.steps", ""), "sft.steps"),
        (("--sft.dense", "maybe"), "sft.dense: Input should be a valid boolean"),
        (("--align.lr", "inf"), "align.lr: Input should be a finite number"),
        (("--align.objective.beta", "nan"), "align.objective.beta: Input should be a finite number"),
        (("--prompt.template", "chat"), "the template 'chat' is none of titles, instruction"),
        (("--policy.type", "foo"), "policy: the type 'foo' is none of scratch, pretrained"),
        (("--policy.type", "pretrained"), "policy.model: it is not given, and policy.type pretrained needs it"),
        ((*PRETRAINED, "--policy.hidden", "64"), "policy.hidden: no such setting with policy.type pretrained"),
        (("--policy.lora.r", "4"), "policy.lora: no such setting with policy.type scratch"),
        (("--oracle.type", "constant", "--oracle.steps", "5"), "oracle.steps: no such setting with oracle.type const"),
        (("--oracle.epsilon", "0.1"), "oracle.epsilon: no such setting with oracle.type sasrec"),
        (("--rejection.strategy", "semantic"), "rejection.strategy: this is a section"),
    ],
)
def test_unknown_settings_and_wrong_types(argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("algin: {lr: 1}", "algin: no such setting; did you mean align?"),
        ("align: {objective: {betta: 1}}", "align.objective.betta: no such setting with align.objective.type conser"),
        ("align: {batsh: 1}", "align.batsh: no such setting; did you mean align.batch?"),
        ("align:", "align: this is a section"),
        ("sft: {steps: true}", "steps is true, but a number is needed"),
        ("sft: {steps: 5}\nsft: {batch: 4}", "'sft' stands twice"),
        ("align: [1, 2", "is not valid YAML"),
        ("- align", "must hold settings by name, not a list"),
        ("policy: {type: pretrained, model: x, lora: {rank: 4}}", "policy.lora.rank: no such setting"),
    ],
)
def test_recipes_that_say_nothing_sensible(text: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *recipe(text))


def test_a_recipe_in_another_encoding(capsys: pytest.CaptureFixture[str]):
    Path("own.yaml").write_bytes("mlflow: {model: café}".encode("latin-1"))
    assert "is not valid YAML" in refused(capsys, "--recipe", "own.yaml")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ROSEPO_ALGIN__BETA", "1", "ROSEPO_ALGIN__BETA names no setting"),
        ("ROSEPO_ALIGN__BATSH", "1", "align.batsh: no such setting"),
        ("ROSEPO_ALIGN__OBJECTIVE__BETA", "much", "align.objective.beta: Input should be a valid number"),
        ("ROSEPO_ALIGN", "3", "align: this is a section"),
    ],
)
def test_the_environment(
    name: str, value: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    assert words in refused(capsys)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--prompt.template", "instruction"), "sft.dense needs prompt.template titles"),
        (("--policy.hidden", "100", "--policy.heads", "3"), "must be a multiple of 2 x policy.heads"),
        (("--oracle.hidden", "50", "--oracle.heads", "4"), "must be a multiple of oracle.heads"),
        ((*PRETRAINED, "--policy.lora.targets", "[]"), "policy.lora.targets is []"),
        ((*PRETRAINED, "--policy.lora.targets", "[all-linear]"), "give all-linear alone"),
        (
            ("--align.objective.type", "robust"),
            "more than the objective robust can be given; set it to 0.4",
        ),
        (("--rejection.k", "20"), "more distinct wrong candidates than data.candidates leaves (19)"),
        (("--rejection.strategy.type", "mix"), "rejection.strategy.parts: it is not given"),
        (("--rejection.strategy.type", "mix", "--rejection.strategy.parts.uniform", "0"), "a weight above 0"),
        (("--rejection.strategy.type", "mix", "--rejection.strategy.parts.unifrom", "1"), "'unifrom' is none of"),
        (
            ("--rejection.strategy.type", "mix", "--rejection.strategy.parts.uniform", "1", "--rejection.k", "20"),
            "more distinct wrong candidates",
        ),
        (("--cluster.oracle_replicas_min", "3"), "is below cluster.oracle_replicas_min"),
        (("--cluster.workers", "64"), "cluster.workers 64 share the 32 rows of a step (sft.batch)"),
        (("--cluster.workers", "2", "--align.batch", "1"), "(align.batch)"),
        (("--cluster.workers", "2", "--oracle.batch", "1"), "(oracle.batch)"),
    ],
)
def test_contradictions(argv: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *argv)


CONSTANT = ("--oracle.type", "constant")
LISTED = ("--sft.dense", "false", "--prompt.template", "instruction", "--prompt.list_candidates", "true")
WITHOUT_EFFECT = [
    (("--prompt.chat", "true"), "prompt.chat"),
    (("--prompt.template", "instruction", "--sft.dense", "false", "--prompt.system", "x"), "prompt.system"),
    (("--sft.validation.every", "null", "--sft.validation.patience", "3"), "sft.validation.patience"),
    (("--align.validation.every", "null", "--align.validation.metric", "loss"), "align.validation.metric"),
    (("--prompt.list_candidates", "true"), "prompt.list_candidates"),
    (("--align.objective.type", "simpo", "--oracle.epsilon_max", "0.3"), "oracle.epsilon_max"),
    (("--align.objective.type", "simpo", *CONSTANT, "--oracle.epsilon", "0.3"), "oracle.epsilon"),
    ((*CONSTANT, "--cluster.oracle_replicas_min", "2", "--cluster.oracle_replicas_max", "2"), "cluster.oracle_repl"),
    (("--oracle.type", "replay", "--oracle.folder", "x", "--cluster.oracle_replicas_max", "2"), "cluster.oracle_rep"),
    ((*CONSTANT, "--rejection.validation_examples", "10"), "rejection.validation_examples"),
    (("--policy.type", "pretrained", "--policy.model", "/a/folder", "--policy.revision", "main"), "policy.revision"),
    (("--policy.type", "pretrained", "--policy.model", "sample:x", "--policy.revision", "main"), "policy.revision"),
    ((*LISTED, "--evaluation.catalogue_examples", "10"), "evaluation.catalogue_examples"),
    ((*LISTED, "--evaluation.beams", "2"), "evaluation.beams"),
    (("--evaluation.catalogue_examples", "0", "--evaluation.beams", "2"), "evaluation.beams"),
    ((*LISTED, "--scoring.cache_mib", "2"), "scoring.cache_mib"),
]


@pytest.mark.parametrize(("argv", "name"), WITHOUT_EFFECT)
def test_a_setting_without_effect_is_an_error(argv: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]):
    told = refused(capsys, *argv)
    assert told.startswith(f"error: {name}")
    assert "has no effect with" in told


def test_every_rule_of_no_effect_is_tried_above():
    tried = {name for _, name in WITHOUT_EFFECT}
    for rule in unused_settings.RULES:
        assert any(name.startswith(tuple(tried)) for name in rule.names), rule.names


def test_autoscaling_needs_a_cluster_to_join(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert "cluster.autoscaling has no effect without a cluster" in refused(capsys, "--cluster.autoscaling", "true")
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    parse(["--cluster.autoscaling", "true"], "align.py", "")


def test_what_a_stronger_layer_silences_is_dropped():
    """The quickstart sets oracle.epsilon_max; an objective without epsilon is enough to leave it aside."""
    assert read_recipe("quickstart")["oracle"]["epsilon_max"] == 1.0
    settings = parse(["--align.objective.type", "simpo"], "align.py", "").settings
    assert settings.oracle.epsilon_max == 0.5
    with pytest.raises(BadInput, match=r"oracle\.epsilon_max has no effect"):
        build({"align": {"objective": {"type": "simpo"}}}, {"oracle": {"epsilon_max": 0.3}})


def test_a_section_without_a_type_means_the_default_one():
    assert build({"policy": {"hidden": 64}}).policy.model_dump()["hidden"] == 64
    assert build({"policy": {"hidden": 64}}, {"policy": {"type": "pretrained", "model": "x"}}).policy.type != "scratch"


@pytest.mark.parametrize("argv", [(), ("--oracle.type", "constant"), ("--oracle.type", "popularity"), PRETRAINED])
def test_the_saved_settings_of_a_run_are_a_recipe(argv: tuple[str, ...], tmp_path: Path):
    """They hold every setting, also those without effect, which the run itself left at their defaults."""
    settings = parse(list(argv), "align.py", "").settings
    directory.record(settings, str(tmp_path))
    assert parse(["--recipe", str(tmp_path / "settings.yaml")], "align.py", "").settings == settings


@pytest.mark.parametrize("name", recipe_names())
def test_the_shipped_recipes_are_valid_with_every_other_oracle(name: str):
    for oracle in ("sasrec", "popularity", "constant"):
        build(read_recipe(name), {"oracle": {"type": oracle}})


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_run_directory_with_other_settings_stays_as_it_is(capsys: pytest.CaptureFixture[str], here: Path):
    directory.record(parse([], "align.py", "").settings, str(here / "run"))
    (here / "run" / "sft").mkdir()
    (here / "run" / "sft" / "part").write_bytes(b"\x00work")
    before = snapshot(here)
    assert "align.objective.beta is 1.0 there and 0.2 here" in refused(capsys, "--align.objective.beta", "0.2")
    assert snapshot(here) == before
    assert "align.objective.beta" in refused(capsys, "--align.objective.beta", "0.2", "--dry-run")
    assert snapshot(here) == before


def test_a_refusal_needs_neither_ray_nor_transformers():
    code = (
        "import sys; from rosepo_ray.run.job import main; code = main(['--cluster.workers', '64'], 'align', ''); "
        "sys.exit(code if not {'ray', 'mlflow', 'transformers'} & set(sys.modules) else 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr


def test_null_in_a_recipe_is_a_value_and_no_slip():
    found: Any = build(yaml.safe_load("policy: {type: pretrained, model: x, lora: null}")).policy
    assert found.lora is None
