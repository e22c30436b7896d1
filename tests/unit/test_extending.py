"""docs/extending.md: its blocks of code, written into a folder outside the package and run there."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rosepo_ray import storage
from rosepo_ray.catalogue.encoders import build_encoder
from rosepo_ray.catalogue.requests import Request, Requests
from rosepo_ray.config import templates
from rosepo_ray.config.policy import PromptSettings, ScratchPolicy
from rosepo_ray.errors import BadInput
from rosepo_ray.evaluation import metrics, ranking_metrics
from rosepo_ray.policy import scoring, store
from rosepo_ray.programs.align import AlignProgram
from rosepo_ray.registry import gates
from rosepo_ray.run import pipeline, promote, sources
from rosepo_ray.run.settings import Settings
from rosepo_ray.storage import done, tables
from rosepo_ray.training import in_process
from rosepo_ray.training.world import World

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(?:python|jinja) title="(\w+\.(?:py|j2))"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
TITLES = [f"The {a} {b}" for a in ("red", "blue", "iron") for b in ("house", "garden", "window", "street")]
TITLE_OF = {f"i{n:02d}": title for n, title in enumerate(TITLES)}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files, on the path of imports."""
    for name, code in BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        (tmp_path / name).write_text(code, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def settings_of(*arguments: str) -> Settings:
    return sources.parse([*arguments], "align", "").settings


@pytest.mark.parametrize("kind", ["objective", "strategy", "oracle"])
def test_a_kind_of_the_page_keeps_its_contract(page: Path, kind: str) -> None:
    path = os.pathsep.join([str(page), str(ROOT)])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_my_{kind}.py"],
        cwd=page, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert int(re.findall(r"(\d+) passed", ran.stdout)[0]) >= 9


def test_the_objective_is_chosen_on_the_command_line_and_trains(page: Path) -> None:
    """It draws every margin to 1 / (2 beta) = 2.5 from the reference's 0: the loss falls from 2.5 squared."""
    given = settings_of("--align.objective.type", "my_objective:Ipo", "--align.objective.beta", "0.2")
    align = given.align.model_copy(update={"batch": 4, "micro_batch": 2, "lr": 1e-2, "epochs": 4})
    policy = store.build(
        ScratchPolicy(hidden=16, layers=1, heads=2, vocabulary=280), PromptSettings(), TITLES,
        [1] * len(TITLES), seed=1,
    )  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    for n in range(8):
        history, chosen, rejected, *rest = random.Random(n).sample(list(TITLE_OF), 8)
        request = Request([TITLE_OF[history]], [TITLE_OF[chosen], TITLE_OF[rejected]])
        first, second = scoring.score(policy, [request], 1, 1000)[0].tolist()
        rows[f"u{n}:1"] = {
            "example_id": f"u{n}:1", "history": [history], "candidates": rest, "chosen": chosen,
            "rejected_text": [TITLE_OF[rejected]], "ref_chosen_logp": first, "ref_rejected_logps": [second],
        }  # fmt: skip
    program = AlignProgram(
        policy, Requests(TITLE_OF), [[row] for row in rows], lambda ids: (rows[i] for i in ids), align, 1, World()
    )
    losses: list[float] = []
    in_process.train(program, align, 8, lambda step, figures: losses.append(figures["loss"]))
    assert losses[0] == pytest.approx(2.5**2, abs=1e-2)
    assert losses[-1] < losses[0] - 1


def test_the_strategy_is_chosen_on_the_command_line(page: Path) -> None:
    strategy = settings_of("--rejection.strategy.type", "my_strategy:Matched").rejection.strategy
    from rosepo_ray.catalogue.items import Catalogue
    from rosepo_ray.rejection import Answers, RejectionRow

    built = strategy.build(Catalogue(("a", "b", "c", "t"), ("A", "B", "C", "T"), (9, 4, 1, 5)))
    row = RejectionRow("u:1", "u", ["c"], "t", ["a", "b", "c", "t"], frozenset({"c", "t"}))
    picks = built.pick(row, built.ask(row, 2, 1), Answers(), 1)
    assert [pick.item_id for pick in picks] == ["b", "a"]  # popularities 4 and 9 against 5; c was taken


def test_the_oracle_is_chosen_on_the_command_line(page: Path) -> None:
    (page / "followed.json").write_text(json.dumps({"a": {"b": 5}}))
    oracle = settings_of("--oracle.type", "my_oracle:Followed", "--oracle.table", str(page / "followed.json")).oracle
    assert oracle.scores
    made = oracle.prepare(type("Making", (), {"item_ids": ("a", "b")}))
    assert made.score(["u"], [["a"]], [["b", "a"]])[0][0].tolist() == pytest.approx([np.log(6), 0])


ITEMS = {"a": 7, "b": 3, "c": 1, "d": 1}


def evidence(tops: str) -> gates.Evidence:
    """One row a sign, whose target is a and whose best candidate is that sign; the catalogue is ranked alike."""
    examples, predictions = [], []
    for n, top in enumerate(tops):
        ranked = [top, *(item for item in "abc" if item != top)]
        row = {"example_id": f"u{n}:1", "user_id": f"u{n}"}
        examples.append({**row, "history": ["d"], "target": "a", "candidates": list("abc"), "split": "test", "seen": 1})
        full = {"top": ranked, "top_scores": [0.0] * 3}
        predictions.append({**row, "ranked": ranked, "scores": [0.0] * 3, "generated": None, "outcome": None, **full})
    items = [{"item_id": i, "title": f"Title {i}", "genres": None, "popularity": n} for i, n in ITEMS.items()]
    found = {"predictions": predictions, "examples": examples, "items": items}
    return gates.Evidence(*(tables.from_rows(name, rows) for name, rows in found.items()))


def test_the_metric_has_rows_for_candidates_catalogue_and_gates(page: Path) -> None:
    """Of 12 interactions, one added to each of four items: a has 8 of 16 (1 bit), b 4 (2 bits)."""
    chosen = settings_of("--evaluation.metrics", "[my_metric:SURPRISE]").evaluation.metrics
    one, other = evidence("aabb"), evidence("bbbb")
    result = metrics.evaluate(
        {"sft": one.predictions, "aligned": other.predictions}, one.examples, one.items,
        pa.table({"user_id": ["u"], "items": [["a"]]}), build_encoder("tfidf", ["Title a"]), listed=False, draws=200,
        seed=1, metrics=ranking_metrics.with_own(chosen),
    )  # fmt: skip
    for name in ("surprise@1", "full_surprise@1"):
        assert result["models"]["sft"][name]["value"] == pytest.approx(1.5)
        assert result["models"]["sft"][name]["low"] < 1.5 < result["models"]["sft"][name]["high"]
        assert result["differences"]["aligned-sft"][name]["value"] == pytest.approx(0.5)
    assert result["notes"]["own_metrics"] == ["surprise@1"]
    margins = ["--promotion.margins", '{"my_metric:SURPRISE": 0.2}']
    settings = promote.settings_of(None, margins, "promote").promotion
    kept, lost = (gates.judge(*pair, settings)[2] for pair in ((one, other), (other, one)))
    assert (kept.name, kept.passed, kept.difference) == ("surprise@1", True, pytest.approx(0.5))
    assert (lost.passed, lost.bound) == (False, -0.2)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["surprise"], "none of hr@1"),
        (["my_metric:GONE"], "cannot be imported"),
        (["my_metric:surprise"], "no RankingMetric"),
        (["my_metric:SURPRISE", "my_metric:SURPRISE"], "surprise@1 twice"),
    ],
)
def test_a_metric_that_is_none_gets_a_sentence(page: Path, names: list[str], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        ranking_metrics.with_own(names)


def test_the_prompt_is_what_the_policy_reads(page: Path) -> None:
    given = settings_of("--prompt.template", "my_prompt:bookshop", "--sft.dense", "false")
    policy = store.build(ScratchPolicy(hidden=16, layers=1, heads=2), given.prompt, TITLES, [1] * len(TITLES), seed=1)
    store.save(policy, page / "policy")
    prompter = store.load(str(page / "policy"), "cpu").prompter
    prompt = prompter.prompt_ids(Request(["The red house", "The blue garden"], candidates=["The iron street"]))
    words = "A reader has bought The red house; The blue garden. The next book is:"
    assert prompter.written(prompt.ids) == words
    listed = prompter.settings.model_copy(update={"list_candidates": True})
    policy.prompter.settings = listed
    prompt = policy.prompter.prompt_ids(Request(["The red house"], candidates=["The iron street"]))
    assert "On the shelf: The iron street." in prompter.written(prompt.ids)


def test_the_jinja_file_says_the_same_and_travels_as_text(page: Path) -> None:
    given = settings_of("--prompt.template", str(page / "bookshop.j2"), "--sft.dense", "false").prompt
    assert "{{ history" in given.template
    write = templates.writer(given.template)
    assert write(["The red house", "The blue garden"], None) == (
        "A reader has bought The red house; The blue garden.\nThe next book is:\n"
    )
    assert "On the shelf: The iron street." in write(["The red house"], ["The iron street"])


@pytest.mark.parametrize(
    ("name", "told"), [("my_prompt:gone", "cannot be imported"), ("my_metric:__doc__", "is no function")]
)
def test_a_prompt_that_is_none_gets_a_sentence(page: Path, name: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        settings_of("--prompt.template", name, "--sft.dense", "false")


def test_the_stage_is_planned_and_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from my_stage import leaflet

    monkeypatch.setattr(pipeline, "STAGES", (*pipeline.STAGES, leaflet))
    settings, run_dir = sources.build({}), str(page / "runs" / "one")
    *_, evaluate, last = pipeline.plan(settings, run_dir)
    assert (last.stage.name, last.inputs, last.done) == ("leaflet", {"evaluate": evaluate.folder}, None)
    assert (
        last.stage.description == "Write the aligned policy's three best candidates of every judged row as a CSV file."
    )
    folder = storage.join(evaluate.folder, "predictions", "aligned")
    tables.write_part(folder, "predictions", 0, evidence("ab").predictions)
    done.write(evaluate.folder, {}, 1.0)
    finished = pipeline.run(settings, run_dir, only="leaflet")["leaflet"]
    assert finished.info == {"rows": 2}
    written = Path(finished.folder, "leaflet.csv").read_text()
    assert written.splitlines() == ["row,first,second,third", "u0:1,a,b,c", "u1:1,b,a,c"]
    assert pipeline.plan(settings, run_dir)[-1].done is not None


def test_a_change_of_ones_own_file_makes_the_stages_run_again_that_name_it(page: Path) -> None:
    given = settings_of("--align.objective.type", "my_objective:Ipo")
    before = {step.stage.name: step.folder for step in pipeline.plan(given, str(page / "runs" / "one"))}
    with (page / "my_objective.py").open("a") as file:
        file.write("# another\n")
    after = {step.stage.name: step.folder for step in pipeline.plan(given, str(page / "runs" / "one"))}
    assert {name for name in before if before[name] != after[name]} == {"align", "sft_longer", "evaluate"}
