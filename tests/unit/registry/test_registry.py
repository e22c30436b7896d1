"""Secrets in addresses, and requests to the packaged model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_ray.errors import BadInput
from rosepo_ray.process.redaction import flatten, redact
from rosepo_ray.registry import requests


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


KNOWN = {"a", "b", "c"}


def test_a_request_keeps_the_newest_history_and_its_id() -> None:
    row = {"history": ["a", "b", "c"], "candidates": ("b", "a"), "example_id": "u:3"}
    assert requests.read([row], KNOWN, keep=2) == [requests.Ask("u:3", ["b", "c"], ["b", "a"], ["a", "b", "c"], [])]


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
        ({"history": ["z", "y"], "candidates": ["a"]}, "history names 2 unknown item"),
        ({"history": ["a", 1], "candidates": ["a"]}, "history holds 1, and an item id is a text"),
        ({"history": ["a"], "candidates": ["a", "z"]}, "candidates names 1 unknown item"),
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


def test_unknown_items_of_a_history_are_left_out_and_named_or_refused() -> None:
    row = {"history": ["z", "a", "y", "b"]}
    assert requests.read([row], KNOWN, keep=1) == [requests.Ask("a\x1fb", ["b"], None, ["a", "b"], ["z", "y"])]
    with pytest.raises(BadInput, match=r"row 0: history names 2 unknown item\(s\) \('z', 'y'\)"):
        requests.read([row], KNOWN, keep=1, strict=True)
    asked = (None, {}, {"unknown": "leave_out"}, {"unknown": "refuse"})
    assert [requests.read_strict(params) for params in asked] == [False, False, False, True]
    with pytest.raises(BadInput, match="unknown is 'drop'; give leave_out or refuse"):
        requests.read_strict({"unknown": "drop"})


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
