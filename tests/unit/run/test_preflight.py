"""What is found before any stage: no model, another model, no hub; and, once the items are known, titles that do not
fit."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from huggingface_hub import constants as hub
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, T5Config

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import LoraSettings, PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.on_ray import cluster
from rosepo_ray.policy import pretrained, scratch, store
from rosepo_ray.policy.checks import titles, weights
from rosepo_ray.policy.checks.titles import refuse_unreadable_titles, title_lengths
from rosepo_ray.policy.prompts import Prompter
from rosepo_ray.run import preflight
from rosepo_ray.run.job import main
from rosepo_ray.run.settings import Settings
from rosepo_ray.run.sources import build
from rosepo_ray.storage import tables
from tests import tiny_models

TITLES = ["Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Twelve Monkeys", "Babe", "Seven (Se7en)"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save(tmp_path_factory.mktemp("base"), "qwen3", TITLES)


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def using(model: Path | str, **policy: Any) -> Settings:
    prompt = {"template": "instruction", "max_tokens": 448}
    return build(
        {"policy": {"type": "pretrained", "model": str(model), **policy}, "prompt": prompt, "sft": {"dense": 0}}
    )


def refusal(settings: Settings) -> str:
    with pytest.raises(BadInput) as caught:
        preflight.refuse_hopeless_run(settings)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def edit(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def drop_a_layer(folder: Path) -> None:
    kept = {k: v for k, v in load_file(folder / "model.safetensors").items() if "layers.1." not in k}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def as_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def test_a_model_folder_that_is_whole_passes(base: Path):
    preflight.refuse_hopeless_run(using(base))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights (model.safetensors is missing)"),
        (as_adapter, "holds an adapter and not a model"),
        (without_tokenizer, "tokenizer of policy.model"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not a valid JSON file"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (lambda folder: edit(folder, model_type="foo"), "`foo`"),
        (lambda folder: edit(folder, hidden_size="64"), "cannot be loaded"),
        (lambda folder: edit(folder, num_attention_heads=3), "have another size"),
        (lambda folder: edit(folder, num_attention_heads=0), "cannot be loaded"),
        (truncate, "incomplete metadata, file not fully covered"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "header too small"),
        (lambda folder: edit(folder, hidden_size=64), "have another size, among them lm_head.weight ([300, 32]"),
        (drop_a_layer, "11 are missing, among them model.layers.1."),
        (lambda folder: edit(folder, model_type="gpt2", architectures=["GPT2LMHeadModel"]), "are missing"),
        (lambda folder: edit(folder, vocab_size=200), "it belongs to another model"),
        (lambda folder: edit(folder, max_position_embeddings=448), "leaves no room for a title in the 448 positions"),
    ],
)
def test_what_is_no_usable_model_folder(copy: Path, damage: Callable[[Path], object], words: str):
    damage(copy)
    told = refusal(using(copy))
    assert words in told
    assert str(copy) in told


def test_a_file_is_no_model(base: Path):
    assert "is a file" in refusal(using(base / "config.json"))


def test_models_that_do_not_write_from_left_to_right(base: Path, tmp_path: Path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    bert = BertConfig(**sizes, vocab_size=300)
    for name, model in {"BertModel": AutoModel.from_config(bert), "BertForMaskedLM": BertForMaskedLM(bert)}.items():
        model.save_pretrained(tmp_path / name)
        assert f"is a {name}, which does not write text from left to right" in refusal(using(tmp_path / name))
    shutil.copytree(base, tmp_path / "t5")
    T5Config(d_model=32, num_layers=1).save_pretrained(tmp_path / "t5")
    assert "is a t5" in refusal(using(tmp_path / "t5"))
    headless = AutoModel.from_config(tiny_models.config("qwen3"))
    headless.save_pretrained(tmp_path / "headless")
    assert "is a Qwen3Model" in refusal(using(tmp_path / "headless"))


def test_a_relative_folder_is_kept_as_an_absolute_one(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """Workers run in another directory."""
    monkeypatch.chdir(copy.parent)
    settings = using("model")
    assert settings.policy.model_dump()["model"] == str(copy)
    with pytest.raises(BadInput, match=r"policy\.revision has no effect"):
        using("model", revision="main")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["refused", "silent", "offline"])
def test_a_hub_that_cannot_be_reached_is_a_sentence_within_seconds(
    kind: str, silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    endpoint = {"refused": "http://127.0.0.1:9", "silent": silent_server, "offline": hub.ENDPOINT}[kind]
    monkeypatch.setattr(hub, "ENDPOINT", endpoint)
    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", kind == "offline")
    monkeypatch.setattr(weights, "_SECONDS", 1.0)
    began = time.monotonic()
    told = refusal(using("some-team/some-model"))
    assert time.monotonic() - began < 10
    assert f"policy.model 'some-team/some-model' is no folder here and cannot be had from {endpoint} (" in told
    assert "give a folder written by save_pretrained" in told


def test_the_job_refuses_before_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "empty").mkdir()
    began = time.monotonic()
    argv = ["--policy.type", "pretrained", "--policy.model", "empty", "--run.dir", "run"]
    assert main(argv, "align", "") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: policy.model '{tmp_path}/empty' holds no model (config.json is missing)")
    assert told.count("\n") == 1
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_is_not_there():
    if not any(Path(path, "sentence_transformers").exists() for path in sys.path):
        assert "sentence-transformers" in refusal(build({"evaluation": {"encoder": "some/encoder"}}))


def test_a_ranker_that_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert main(["--oracle.type", "http", "--oracle.url", url, "--run.dir", "run"], "align", "") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: the oracle at {url} did not answer")
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_replay_without_its_table(tmp_path: Path):
    assert "holds no smoothing table" in refusal(build({"oracle": {"type": "replay", "folder": str(tmp_path)}}))


def test_a_replay_that_the_objective_cannot_take(tmp_path: Path):
    rows = [
        {"example_id": f"u:{n}", "rejected": ["a", "b"], "epsilon": [0.1, bound], "oracle_version": "v", "scores": None}
        for n, bound in enumerate((0.2, 0.45))
    ]
    tables.write_part(str(tmp_path), "smoothing", 0, tables.from_rows("smoothing", rows))
    preflight.refuse_hopeless_run(build({"oracle": {"type": "replay", "folder": str(tmp_path)}}))
    told = refusal(
        build({"oracle": {"type": "replay", "folder": str(tmp_path)}, "align": {"objective": {"type": "robust"}}})
    )
    assert "holds a smoothing factor of 0.45" in told
    assert "more than the objective robust can be given" in told


def test_gpus_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = build({"cluster": {"use_gpu": True, "workers": torch.cuda.device_count() + 1}})
    assert f"this machine has {torch.cuda.device_count()}" in refusal(settings)


def test_the_sum_of_what_a_layout_needs():
    layout = {"workers": 3, "actors": 2, "oracle_replicas_max": 4}
    need = cluster.need(build({"cluster": layout}).cluster, served=True)
    assert need.cpus == 3 + 4 * 0.25 + 3 * 2
    assert "3 training worker(s) x 1 + 1 for oracle replicas + 3 stream(s) x 2 = 10 CPUs in alignment" in need.sum
    assert cluster.need(build({"cluster": {"actors": 12}}).cluster, served=True).cpus == 13


# Titles, once the items are known.


def word_tokenizer(normalizer: Any = None) -> PreTrainedTokenizerFast:
    """Knows the words of TITLES and nothing else."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(TITLES, trainers.WordLevelTrainer(special_tokens=["[UNK]", "<end>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="[UNK]")


def test_titles_that_the_tokenizer_does_not_know():
    prompter = Prompter(word_tokenizer(), PromptSettings())
    assert title_lengths(prompter, TITLES, True).tolist() == [3, 2, 3, 3, 2, 3, 2, 3]
    strange = ["Der Blaue Engel", "Мир", "  ", "Babe 7", "Ran"]
    with pytest.raises(BadInput, match=r"cannot encode 5 of 13 titles \('Der Blaue Engel', 'Мир', '  '\) with tokens"):
        title_lengths(prompter, TITLES + strange, True)


def test_titles_with_tokens_beyond_the_embedding():
    """Tokens that were added to a tokenizer have no row in a model that was not resized."""
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["[movie-7]"])
    titles = [*TITLES, "[movie-7]"]
    assert len(title_lengths(Prompter(tokenizer, PromptSettings()), titles, True, len(tokenizer))) == 9
    with pytest.raises(
        BadInput, match=r"cannot encode 1 of 9 titles \('\[movie-7\]'\) with tokens that the model knows"
    ):
        title_lengths(Prompter(tokenizer, PromptSettings()), titles, True, len(tokenizer) - 1)


def test_a_prompt_begins_as_the_tokenizer_begins_a_text():
    tokenizer = word_tokenizer()
    plain = Prompter(tokenizer, PromptSettings())
    assert plain.opening == []
    assert plain.whole_prompt_ids(Request([TITLES[0]])).ids[0] == plain.end_id
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    begin = tokenizer.convert_tokens_to_ids("<begin>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", begin), ("<end>", tokenizer.eos_token_id)]
    )
    for template in ("titles", "instruction"):
        prompter = Prompter(tokenizer, PromptSettings(template=template))
        assert prompter.opening == [begin]
        ids = prompter.whole_prompt_ids(Request([TITLES[0]])).ids
        assert ids[0] == begin
        assert ids.count(begin) == 1
        assert begin not in prompter.response_ids(TITLES[0])


def test_lora_targets_that_no_layer_is_called(base: Path):
    settings = using(base)
    for targets, told in ((["q_proj", "query"], "names query, which no linear layer"), (["proj"], "names proj")):
        lora = LoraSettings(targets=targets)
        policy = settings.policy.model_copy(update={"lora": lora})
        assert told in refusal(settings.model_copy(update={"policy": policy}))
    policy = settings.policy.model_copy(update={"lora": LoraSettings(targets=["q_proj", "self_attn.v_proj"])})
    preflight.refuse_hopeless_run(settings.model_copy(update={"policy": policy}))


def test_titles_that_do_not_come_back(caplog: pytest.LogCaptureFixture):
    """A tokenizer that strips accents: the policy could never write the title as it is."""
    accents = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = accents
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TITLES, trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    prompter = Prompter(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"), PromptSettings())
    titles = [*TITLES, "Amélie"]
    with pytest.raises(BadInput, match=r"does not give back 1 of 9 titles \('Amélie'\) \(the first becomes 'Amelie'\)"):
        title_lengths(prompter, titles, True)
    assert len(title_lengths(prompter, titles, False)) == 9
    assert "does not give back 1 of 9 titles ('Amélie')" in caplog.text  # to the policy it may be another's


ODD = [
    "🎬🍿 films",
    "مرحبا بالعالم",
    "\u202eשלום\u202c",
    "電影",
    "Ⅷ ½ ﬁ",
    "a\tb\nc",
    "The <|end|> of it",
    "é é",
    "x" * 10_000,
]


@pytest.mark.parametrize("across_words", [True, False])
def test_the_scratch_vocabulary_spells_what_it_never_saw(across_words: bool):
    tokenizer = scratch.train_tokenizer(TITLES, [1] * len(TITLES), 300, across_words)
    lengths = title_lengths(Prompter(tokenizer, PromptSettings()), ODD, True)
    # At most a token per byte, the space in front and the end token.
    assert all(length <= len(title.encode()) + 2 for length, title in zip(lengths, ODD, strict=True))


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "\x00" not in text))
def test_any_title_can_be_written_by_a_scratch_policy(title: str):
    prompter = Prompter(_SCRATCH, PromptSettings())
    title_lengths(prompter, [title], True)


@pytest.mark.slow  # a fresh interpreter takes seconds to import torch
def test_the_titles_of_a_scratch_policy_are_checked_without_the_code_of_any_model(tmp_path: Path):
    """That code takes seconds to import, which the driver has no use for."""
    write_data(tmp_path, TITLES, LISTS)
    code = (
        "import sys; from rosepo_ray.policy.checks import titles; from rosepo_ray.run.sources import build; "
        "s = build({'policy': {'type': 'scratch', 'vocabulary': 300}}); "
        "titles.refuse_unreadable_titles(s.policy, s.prompt, sys.argv[1], generate=True); "
        "sys.exit(bool({'transformers.modeling_utils', 'transformers.models.llama'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


_SCRATCH = scratch.train_tokenizer(TITLES, [1] * len(TITLES), 300, True)


def write_data(folder: Path, titles: list[str], lists: list[list[int]]) -> str:
    """A data stage's tables: `lists` gives each example's history item, target and other candidates as indices."""
    ids = [f"i{number}" for number in range(len(titles))]
    rows = [{"item_id": i, "title": t, "genres": None, "popularity": 1} for i, t in zip(ids, titles, strict=True)]
    tables.write_part(str(folder), "items", 0, tables.from_rows("items", rows))
    examples = [
        {
            "example_id": f"u:{number}",
            "user_id": "u",
            "history": [ids[0], ids[history]],
            "target": ids[candidates[0]],
            "candidates": [ids[c] for c in candidates],
            "split": "train",
        }
        for number, (history, *candidates) in enumerate(lists)
    ]
    for part, half in enumerate((examples[::2], examples[1::2])):
        tables.write_part(str(folder), "examples", part, tables.from_rows("examples", half))
    return str(folder)


LISTS = [[0, 1, 2], [3, 4, 5], [1, 2, 3], [6, 7, 0]]


def check_titles(settings: Settings, data: str) -> None:
    refuse_unreadable_titles(settings.policy, settings.prompt, data, generate=settings.evaluation.generate)


def told(settings: Settings, data: str) -> str:
    with pytest.raises(BadInput) as caught:
        check_titles(settings, data)
    return str(caught.value)


def scratch_settings(**prompt: Any) -> Settings:
    dense = prompt.get("template", "titles") == "titles"
    policy = {"hidden": 32, "heads": 2, "vocabulary": 260}
    return build({"policy": policy, "prompt": {"max_tokens": 150, **prompt}, "sft": {"dense": dense}})


def test_a_scratch_policy_makes_room_for_long_titles(tmp_path: Path):
    """Its positions cost nothing: only the prompt is bounded."""
    long = "".join(chr(0x4E00 + 37 * number) for number in range(20))  # 60 bytes, and hardly two tokens merged
    data = write_data(tmp_path, [*TITLES, long], LISTS)
    settings = scratch_settings(max_tokens=100)
    check_titles(settings, data)
    policy = store.build(settings.policy, settings.prompt, [*TITLES, long], [1] * 9, 1)
    size = len(policy.prompter.response_ids(long))
    assert policy.model.config.max_position_embeddings == 100 + 4 * size > 160


def test_a_title_of_ten_thousand_characters_gets_a_short_sentence(tmp_path: Path):
    words = " ".join(str(number) for number in range(2_100))
    data = write_data(tmp_path, [*TITLES, words], LISTS)
    found = told(scratch_settings(), data)
    assert len(found) < 400
    assert "…" in found
    wanted = int(re.search(r"raise prompt.max_tokens to (\d+)", found)[1])
    check_titles(scratch_settings(max_tokens=wanted), data)


def test_a_history_item_longer_than_the_prompt(tmp_path: Path):
    data = write_data(tmp_path, [*TITLES, "Zxqvk Jwpgh 0123456789"], LISTS)
    found = told(scratch_settings(max_tokens=16), data)
    assert "the prompt of the title 'Zxqvk Jwpgh 0123456789' has" in found
    assert "prompt.max_tokens is 16; raise prompt.max_tokens to" in found


def test_a_candidate_list_longer_than_the_prompt(base: Path, tmp_path: Path):
    titles = [*TITLES, "Zxqvk Jwpgh 0123456789", "Wqzxy Kkjvh 9876543210"]
    data = write_data(tmp_path, titles, [*LISTS, [9, 8, 9], [8, 9, 1]])
    prompter = Prompter(pretrained.refuse_unfit_model(using(base).policy, 100), using(base).prompt)
    prompt = PromptSettings(template="instruction", list_candidates=True)
    whole = Prompter(prompter.tokenizer, prompt).whole_prompt_ids(Request([titles[9]], (), [titles[8], titles[9]]))

    def given_room(tokens: int) -> Settings:
        settings = using(base)
        told = {"template": "instruction", "list_candidates": True, "max_tokens": tokens}
        return settings.model_copy(update={"prompt": PromptSettings(**told)})

    check_titles(given_room(len(whole)), data)
    found = told(given_room(len(whole) - 1), data)
    assert "the prompt of example u:4, which lists 2 candidates, has" in found
    assert f"has {len(whole)} tokens with a single history item, and prompt.max_tokens is {len(whole) - 1}" in found
    assert f"raise prompt.max_tokens to {len(whole)}, lower data.candidates (2) or shorten the titles" in found


def test_the_context_of_a_pretrained_model_bounds_prompt_and_title(copy: Path, tmp_path: Path):
    edit(copy, max_position_embeddings=460)
    data = write_data(tmp_path / "data", TITLES, LISTS)
    longest = max(len(ids) + 1 for ids in Prompter(
        pretrained.refuse_unfit_model(using(copy).policy, 448), PromptSettings()).all_text_ids(TITLES))  # fmt: skip
    settings = using(copy)
    fits = settings.model_copy(update={"prompt": settings.prompt.model_copy(update={"max_tokens": 460 - longest})})
    check_titles(fits, data)
    over = settings.model_copy(update={"prompt": settings.prompt.model_copy(update={"max_tokens": 461 - longest})})
    found = told(over, data)
    assert (
        f"leaves {longest - 1} of the 460 tokens that {copy} takes; lower prompt.max_tokens to {460 - longest}" in found
    )


@hypothesis_settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=3), min_size=1, max_size=8))
def test_the_longest_list_is_found(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]):
    data = write_data(tmp_path_factory.mktemp("data"), TITLES, rows)
    prompter = Prompter(_SCRATCH, PromptSettings(template="instruction", list_candidates=True))
    lengths = title_lengths(prompter, TITLES, True)
    items = tables.read(data, "items")
    found = max(size for size, *_ in titles._longest(items["item_id"], lengths, data))
    assert found == max(int(np.sum(lengths[row])) for row in rows)


def test_tables_in_chunks_are_joined_by_id(tmp_path: Path):
    ids = pa.chunked_array([["b"], ["a"]])
    row = {"example_id": "u:0", "user_id": "u", "history": ["b", "a"], "target": "b", "candidates": ["b", "b"]}
    tables.write_part(str(tmp_path), "examples", 0, tables.from_rows("examples", [{**row, "split": "train"}]))
    assert list(titles._longest(ids, np.array([5, 7]), str(tmp_path))) == [(17, "u:0", "a", ["b", "b"])]
