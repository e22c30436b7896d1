"""The catalogue: titles as they are compared, and which items bear them."""

from __future__ import annotations

import pytest

from rosepo_ray.catalogue.items import Catalogue, title_key
from rosepo_ray.errors import RosepoError
from rosepo_ray.storage import tables

FILMS = Catalogue(("m1", "m2", "m3"), ("Heat (1995)", "Casablanca", "HEAT  (1995)"), (1, 1, 1))


def test_a_text_names_an_item_where_exactly_one_bears_it() -> None:
    assert FILMS.named(" casablanca ") == "m2"
    assert FILMS.spelled("CASABLANCA") == ["Casablanca"]
    assert FILMS.bearers("heat (1995)") == ["m1", "m3"]
    for text in ("heat (1995)", "Casablanc", "", " "):
        assert FILMS.named(text) is None
        assert FILMS.spelled(text) == []


def test_items_that_share_a_title_are_found_by_each_other() -> None:
    assert FILMS.same_title(["m3", "m2", "nobody's"]) == {"m1", "m3"}
    assert FILMS.same_title(["m2"]) == set()


def test_catalogue_from_the_items_table() -> None:
    items = [{"item_id": "x", "title": "X", "genres": None, "popularity": 4}]
    assert Catalogue.from_table(tables.from_rows("items", items)) == Catalogue(("x",), ("X",), (4,))


def test_catalogue_refuses_repeated_ids() -> None:
    with pytest.raises(RosepoError, match="only 1 are distinct"):
        Catalogue(("x", "x"), ("X", "Y"), (1, 1))


def test_title_key_joins_spellings_of_one_title() -> None:
    composed, decomposed = "Am\u00e9lie (2001)", "AME\u0301LIE   (2001) "
    assert title_key(composed) == title_key(decomposed)
    assert title_key("STRASSE") == title_key("Stra\u00dfe")
    assert title_key("Heat (1995)") != title_key("Heat (1986)")
