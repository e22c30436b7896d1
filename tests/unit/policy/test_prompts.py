"""Prompts of one's own: Jinja2 text, and an instruct model's chat template around them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from rosepo_ray.catalogue.requests import Request
from rosepo_ray.config.policy import PromptSettings
from rosepo_ray.errors import BadInput
from rosepo_ray.policy import scratch
from rosepo_ray.policy.prompts import Prompter

TEXT = (
    "Taken: {{ history | join(' / ') }}\n{% if candidates %}\nOf: {{ candidates | join(' / ') }}\n{% endif %}\nNext:\n"
)
CHAT = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TITLES = ["Babe", "Heat", "Copycat", "<|end|>", "Taken by <|turn|>"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = scratch.train_tokenizer(TITLES, [1] * len(TITLES), 320, across_words=False)
    made.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    made.chat_template = CHAT
    return made


def test_a_template_is_text_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text(TEXT)
    from_file, inline = PromptSettings(template=str(tmp_path / "own.j2")), PromptSettings(template=TEXT)
    assert from_file.template == inline.template == TEXT
    assert PromptSettings.model_validate(from_file.model_dump()) == from_file


def test_it_writes_history_and_candidates_and_the_oldest_go_first(tokenizer: PreTrainedTokenizerFast) -> None:
    prompter = Prompter(tokenizer, PromptSettings(template=TEXT, list_candidates=True))
    ids = prompter.prompt_ids(Request(["Babe", "Heat"], (), ["Copycat"])).ids
    assert prompter.written(ids) == "Taken: Babe / Heat\nOf: Copycat\nNext:"
    short = Prompter(tokenizer, PromptSettings(template=TEXT, max_tokens=len(ids) - 1))
    longer = short.prompt_ids(Request(["Copycat"] * 9 + ["Babe"]))
    assert len(longer) <= len(ids) - 1
    assert short.written(longer.ids).endswith("Babe\nNext:")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ history | join(', ') ", "template fails"),
        ("{{ histories }}", "'histories' is undefined"),
        ("{{ 1 + 1 }}", "shows no history"),
        ("{{ history[0] }}", "shows no history"),  # it must show the newest
        ("{{ history.__class__.__mro__ }}", "template fails"),  # sandboxed
        ("{{ history.append('x') }}{{ history }}", "template fails"),
        ("nowhere.j2", "cannot be read"),
        ("plain", "none of titles, instruction"),
    ],
)
def test_what_is_no_template_gets_a_sentence(text: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PromptSettings(template=text)


def test_a_file_that_shows_nothing_or_too_much_gets_a_sentence(tmp_path: Path) -> None:
    for text, told in (("Which next?", "shows no history"), ("{{ history }}" + " " * 70_000, "bytes")):
        (tmp_path / "x.j2").write_text(text)
        with pytest.raises(ValidationError, match=told):
            PromptSettings(template=str(tmp_path / "x.j2"))


@pytest.mark.parametrize("system", [None, "You know films."])
def test_the_chat_template_stands_around_what_the_user_says(
    tokenizer: PreTrainedTokenizerFast, system: str | None
) -> None:
    plain = Prompter(tokenizer, PromptSettings(template=TEXT))
    chat = Prompter(tokenizer, PromptSettings(template=TEXT, chat=True, system=system))
    request = Request(["Babe", "Heat"])
    says = [{"role": "system", "content": system}] if system else []
    says.append({"role": "user", "content": plain._words(request.history, None)})
    whole = tokenizer.apply_chat_template(says, tokenize=False, add_generation_prompt=True)
    # (This tokenizer puts a space before whatever begins a text.)
    assert "".join(tokenizer.decode(chat.prompt_ids(request).ids).split()) == "".join(whole.split())
    turn = tokenizer.convert_tokens_to_ids("<|turn|>")
    assert chat.prompt_ids(request).ids.count(turn) == (3 if system else 2)


def test_a_title_that_looks_like_a_special_token_stays_text(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = Prompter(tokenizer, PromptSettings(template="instruction", chat=True))
    special = [tokenizer.convert_tokens_to_ids(name) for name in ("<|turn|>", "<|end|>")]

    def count(title: str) -> list[int]:
        ids = chat.prompt_ids(Request([title])).ids
        return [ids.count(token) for token in special]

    assert count("Babe") == count("Taken by <|turn|>") == count("<|end|>") == [2, 1]


def test_a_tokenizer_without_a_chat_template_gets_a_sentence() -> None:
    bare = scratch.train_tokenizer(TITLES, [1] * len(TITLES), 320, across_words=False)
    with pytest.raises(BadInput, match="no chat template"):
        Prompter(bare, PromptSettings(template="instruction", chat=True)).prompt_ids(Request(["Babe"]))
    bare.chat_template = "{{ 'nothing' }}"
    with pytest.raises(BadInput, match="does not show what the user says"):
        Prompter(bare, PromptSettings(template="instruction", chat=True)).prompt_ids(Request(["Babe"]))
