"""Packed rows against separate rows: log-probabilities, gradients, layout, and what is computed at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MixtralConfig

from rosepo_ray.config.policy import LoraSettings
from rosepo_ray.policy import pretrained
from rosepo_ray.policy.engine import layout, llama, module
from rosepo_ray.policy.engine.module import PackedPolicy
from rosepo_ray.policy.model import causal_lm
from rosepo_ray.policy.segments import EncodedPrompt, EncodedRow
from tests import tiny_models
from tests.rows import chain, pack

END = 1
FAMILIES = ("llama", "llama-tied", "qwen2", "qwen3", "gpt2")
Ids = list[int]
token = st.integers(2, tiny_models.VOCABULARY - 1)
title = st.lists(token, max_size=4).map(lambda ids: [*ids, END])  # the end token alone: nothing is fed
row = st.tuples(st.lists(token, min_size=1, max_size=9), st.lists(title, min_size=1, max_size=16))


@pytest.fixture(scope="module", params=[f"{family} {how}" for family in FAMILIES for how in ("lora", "full")])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    family, how = request.param.split()
    folder = tiny_models.save(tmp_path_factory.mktemp("base"), family, ["Heat"])
    built: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    pretrained.remove_dropout(built)
    if how == "lora":
        built = pretrained.add_lora(built, LoraSettings(r=4, alpha=8), seed=1)
        tiny_models.stir_adapters(built)
    return built.train()


def texts(prompts: Sequence[Ids]) -> list[EncodedPrompt]:
    return [EncodedPrompt(ids) for ids in prompts]


def separate(model: Any, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]]) -> torch.Tensor:
    """The plain reference: one forward pass of the model itself over prompt + response, for every response."""
    found = []
    for prompt, titles in zip(prompts, answers, strict=True):
        for answer in titles:
            logps = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
            places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
            found.append(logps[places, torch.tensor(answer)].sum())
    return torch.stack(found)


def gradient(model: Any, logps: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    weights = torch.cos(torch.arange(len(logps), dtype=logps.dtype))
    (logps * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def same(model: Any, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]]) -> None:
    packed, apart = PackedPolicy(model)(pack(texts(prompts), answers, 0)), separate(model, prompts, answers)
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=0)
    ours, theirs = gradient(model, packed), gradient(model, apart)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


@settings(max_examples=6)
@given(rows=st.lists(row, min_size=1, max_size=3))
def test_packed_rows_equal_separate_rows_in_any_shape(model: Any, rows: list[tuple[Ids, list[Ids]]]) -> None:
    same(model, *zip(*rows, strict=True))


@pytest.mark.parametrize("rejected", [1, 4, 15])
def test_packed_rows_equal_separate_rows_for_any_number_of_rejected(model: Any, rejected: int) -> None:
    """The first title stands twice and two begin alike, in rows of one length; with more rejected also in rows of which
    one is padded and has the end token alone for a title."""
    generator = torch.Generator().manual_seed(rejected)

    def ids(count: int) -> Ids:
        return torch.randint(2, tiny_models.VOCABULARY, (count,), generator=generator).tolist()

    titles = [[*ids(1 + n % 6), END] for n in range(rejected)]
    titles = [titles[0], *titles][: rejected + 1]
    titles[-1] = [*titles[0][:1], 7, END]
    if rejected < 15:
        same(model, [ids(12), ids(12)], [titles, titles[::-1]])
    if rejected > 1:
        same(model, [ids(3), ids(12)], [titles, [[END], *titles[1:]]])


@given(rows=st.lists(row, min_size=1, max_size=4))
def test_a_row_holds_each_beginning_once_and_a_token_sees_its_own_path(rows: list[tuple[Ids, list[Ids]]]) -> None:
    prompts, answers = zip(*rows, strict=True)
    batch = pack(texts(prompts), answers, 0)
    nodes = [{tuple(answer[:n]) for answer in titles for n in range(1, len(answer))} for titles in answers]
    assert batch.tokens == sum(map(len, prompts)) + sum(map(len, nodes))
    seen_BLL = batch.seen_BLL()
    for number, (prompt, known) in enumerate(zip(prompts, nodes, strict=True)):
        for place in range(batch.prefix, batch.prefix + len(known)):
            columns = seen_BLL[number, place].nonzero().flatten()
            ids = batch.input_ids_BL[number, columns].tolist()
            assert ids[: len(prompt)] == prompt
            assert tuple(ids[len(prompt) :]) in known  # the beginning that this token closes
            assert batch.position_ids_BL[number, columns].tolist() == list(range(len(ids)))
            known = known - {tuple(ids[len(prompt) :])}
        assert not known
    assert seen_BLL.any(-1).all()  # padding sees something, else its softmax is not a number
    # Each predicted token is asked of the column that closes what stands before it.
    flat = [(number, answer) for number, titles in enumerate(answers) for answer in titles]
    written: dict[int, list[int]] = {n: [] for n in range(len(flat))}
    asked_BQL = batch.asked_BQL()
    width = batch.ask_BQ.shape[1]
    for place, target, owner in zip(*(x.tolist() for x in (batch.place_M, batch.target_M, batch.owner_M)), strict=True):
        number, answer = flat[owner]
        assert place // width == number
        columns = asked_BQL[number, place % width].nonzero().flatten()
        before = batch.input_ids_BL[number, columns].tolist()
        assert before == [*prompts[number], *answer[: len(before) - len(prompts[number])]]
        assert answer[len(before) - len(prompts[number])] == target
        written[owner].append(target)
    assert [sorted(found) for found in written.values()] == [sorted(answer) for _, answer in flat]


@st.composite
def trunk_row(draw: st.DrawFn) -> EncodedRow:
    """A sequence, and responses anywhere in it: what comes next there, with other ends, or something else."""
    trunk = draw(st.lists(token, min_size=1, max_size=9))
    after = draw(st.lists(st.integers(0, len(trunk) - 1), min_size=1, max_size=6))
    answers = [draw(st.one_of(title, st.just([*trunk[at + 1 :][: draw(st.integers(0, 4))], END]))) for at in after]
    return EncodedRow(EncodedPrompt(trunk), answers, after)


@settings(max_examples=6)
@given(rows=st.lists(trunk_row(), min_size=1, max_size=3))
def test_responses_along_a_sequence_equal_separate_rows(model: Any, rows: list[EncodedRow]) -> None:
    prompts = [row.trunk.ids[: at + 1] for row in rows for at in row.follows]
    apart = separate(model, prompts, [[answer] for row in rows for answer in row.answers])
    packed = PackedPolicy(model)(layout.pack(rows, 0))
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=0)
    ours, theirs = gradient(model, packed), gradient(model, apart)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


@given(rows=st.lists(trunk_row(), min_size=1, max_size=3))
def test_what_the_sequence_holds_already_takes_no_column(rows: list[EncodedRow]) -> None:
    for row in rows:
        beginnings = {
            (*row.trunk.ids[: at + 1], *answer[:n])
            for at, answer in zip(row.follows, row.answers, strict=True)
            for n in range(1, len(answer))
        }
        own = beginnings - {tuple(row.trunk.ids[:n]) for n in range(len(row.trunk) + 1)}
        assert layout.pack([row], 0).tokens == len(row.trunk) + len(own)
        assert row.shape[1] >= len(own)


@pytest.mark.parametrize(("family", "last"), [("llama", "layers.1.mlp.down_proj"), ("gpt2", "h.1.mlp.c_proj")])
def test_only_asked_columns_pass_the_last_feed_forward_part(family: str, last: str) -> None:
    built = AutoModelForCausalLM.from_config(tiny_models.config(family))
    rows: list[int] = []
    for name in (last.replace("1", "0", 1), last):
        hook = lambda _, given, __: rows.append(given[0].flatten(0, -2).shape[0])  # noqa: E731
        built.base_model.get_submodule(name).register_forward_hook(hook)
    PackedPolicy(built)(pack(texts([[5] * 20, [6] * 18]), [[[7, 8, 1], [9, 1]], [[3, 1]]], 0))
    assert rows == [2 * 23, 2 * 4]  # 3 tree tokens, and the prompt's last


def test_another_decoder_is_told_by_a_mask(tmp_path: Path) -> None:
    """Mixtral's blocks are not known here: its own forward pass gets the 4-D mask and the positions."""
    sizes = {**tiny_models._SIZES, "vocab_size": tiny_models.VOCABULARY, "num_local_experts": 2}
    torch.manual_seed(3)
    built = AutoModelForCausalLM.from_config(MixtralConfig(**sizes, attn_implementation="sdpa"))
    assert module.family_of(built.base_model) is None
    same(built, [[4, 5, 6], [7]], [[[8, 9, 1], [8, 1], [1]], [[2, 3, 1]]])


def test_other_activations_take_the_models_own_forward() -> None:
    built = AutoModelForCausalLM.from_config(tiny_models.config("llama", hidden_act="gelu"))
    assert module.family_of(built.base_model) is None
    same(built, [[4, 5, 6]], [[[8, 9, 1], [8, 1]]])
    assert module.family_of(AutoModelForCausalLM.from_config(tiny_models.config("llama")).base_model) is llama


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_rows_equal_separate_rows(family: str) -> None:
    torch.manual_seed(4)
    built = AutoModelForCausalLM.from_config(tiny_models.config(family))
    pretrained.remove_dropout(built)
    prompts, answers = [[5, 6], [7]], [[[8, 1], [9, 10, 1]], [[11, 1]]]
    apart = separate(built, [[5, 6], [5, 6, 8, 1], [7]], [[[8, 1]], [[9, 10, 1]], [[11, 1]]])
    packed = PackedPolicy(built)(chain(texts(prompts), answers, 0))
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=0)
    ours, theirs = gradient(built, packed), gradient(built, apart)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.parametrize("how", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_the_modules_themselves_run(family: str, how: str) -> None:
    """As on a GPU: bf16 within its precision, and the same dtypes in the same places as the separate rows."""
    torch.manual_seed(5)
    built: Any = AutoModelForCausalLM.from_config(tiny_models.config(family))
    pretrained.remove_dropout(built)
    if how == "lora":
        built = pretrained.add_lora(built, LoraSettings(r=4, alpha=8), seed=1)
    prompts, answers = [[4, 5, 6, 7], [8]], [[[9, 2, 1], [9, 1], [1]], [[3, 4, 1]]]
    exact = separate(built, prompts, answers)
    precision: list[torch.dtype] = []
    head = causal_lm(built).get_output_embeddings()
    head.register_forward_hook(lambda _, given, logits: precision.extend([given[0].dtype, logits.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        packed = PackedPolicy(built)(pack(texts(prompts), answers, 0))
    assert packed.dtype == torch.float32
    assert precision == [torch.float32] * 2  # bf16 would round a logit of 20 to the next eighth
    assert 0 < float((packed - exact).abs().max().detach()) < 0.1
    assert torch.isfinite(gradient(built, packed)).all()


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_recomputation_really_recomputes(family: str) -> None:
    """Every block but its input is forgotten between the passes: each first map runs twice."""
    calls = []
    built = AutoModelForCausalLM.from_config(tiny_models.config(family))
    pretrained.remove_dropout(built)
    layers = built.base_model.h if family == "gpt2" else built.base_model.layers
    for layer in layers:
        norm = layer.ln_2 if family == "gpt2" else layer.mlp.gate_proj
        norm.register_forward_hook(lambda *_: calls.append(1))
    for switched in (False, True):
        calls.clear()
        if switched:
            built.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        PackedPolicy(built.train())(pack(texts([[4, 5]]), [[[6, 1], [7, 1]]], 0)).sum().backward()
        assert len(calls) == len(layers) * (2 if switched else 1)


def test_long_vocabularies_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    built = AutoModelForCausalLM.from_config(tiny_models.config("llama"))
    batch = pack(texts([[4, 5, 6], [7, 8]]), [[[9, 2, 1], [9, 1]], [[3, 4, 1]]], 0)
    with torch.inference_mode():
        whole = PackedPolicy(built)(batch)
        monkeypatch.setattr(module, "_ON_A_CPU", 2 * tiny_models.VOCABULARY)
        torch.testing.assert_close(PackedPolicy(built)(batch), whole, atol=1e-5, rtol=0)
