"""The log: where it is, how it is read, split and cut into examples."""

from __future__ import annotations

import codecs
import re
from datetime import date, datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rosepo_ray.config.section import Section


class TextFormat(Section):
    """How delimited text is written; Parquet and JSON have no use for it."""

    separator: str | None = None
    """What divides fields, for example `;`, `::` or `\\t`; null: by the suffix (.dat, .data and .txt say nothing)."""
    quote: str | None = "auto"
    """The sign around fields, or null: quotes are text. `auto`: `"`, but null in RecBole files, .dat, .data and .txt,
    and with a separator of several signs."""
    escape: str | None = None
    """The sign that makes the next one plain text, for example a backslash in files of Spark and MySQL; null: none, a
    quote inside quotes is doubled."""
    header: bool = True
    """Whether the first row names the columns; without it they are called 1, 2, 3, …"""

    @field_validator("separator")
    @classmethod
    def _divides(cls, sign: str | None) -> str | None:
        sign = "\t" if sign == "\\t" else sign
        if sign is not None and (not sign or set(sign) & set("\r\n\x1e\x1f")):
            raise ValueError("the separator must be one sign or more without a line break; give one such as ';'")
        return sign

    @model_validator(mode="after")
    def _single_signs(self) -> TextFormat:
        for name, sign in (("quote", self.quote), ("escape", self.escape)):
            if sign is not None and sign != "auto" and (len(sign) != 1 or not sign.isascii() or sign.isspace()):
                raise ValueError(f"{name} must be one ASCII sign or null, not '{sign}'")
        signs = [sign for sign in (self.separator, self.quote, self.escape) if sign is not None]
        if len(set(signs)) < len(signs):
            raise ValueError("separator, quote and escape must be three different signs")
        return self


class Columns(Section):
    """Names of the columns in the user's files; positions from 1 in a file without a header."""

    user: str = "user_id"
    """Column with the user's id."""
    item: str = "item_id"
    """Column with the item's id, in both files."""
    catalogue_item: str | None = None
    """Column with the item's id in the items file; null: called as in the log."""
    time: str | None = "timestamp"
    """Column with the time (a number of any clock or a date) or null: then the order of the file counts."""
    rating: str | None = "rating"
    """Column with the rating; may be absent unless data.min_rating is set."""
    title: str = "title"
    """Column with the item's title, in the items file."""

    @field_validator("*", mode="before")
    @classmethod
    def _positions(cls, name: object) -> object:
        """In YAML a position is a number."""
        return str(name) if isinstance(name, int) and not isinstance(name, bool) else name

    @model_validator(mode="after")
    def _distinct(self) -> Columns:
        names = {role: getattr(self, role) for role in ("user", "item", "time", "rating") if getattr(self, role)}
        for role, name in names.items():
            if doubled := [other for other in names if other != role and names[other] == name]:
                raise ValueError(
                    f"data.columns.{role} and data.columns.{doubled[0]} both name the column '{name}'; each needs one "
                    "of its own" + (", or null for the one that the log lacks" if doubled[0] in _OPTIONAL else "")
                )
        return self


_OPTIONAL = ("time", "rating")


class DataSettings(Section):
    sample: Literal["movielens-100k", "none"] = "movielens-100k"
    """A public sample fetched through pip, or `none` with your own files."""
    interactions: str | None = None
    """Interaction log: a file, a folder or a glob of Parquet, CSV, TSV, .dat, JSON or RecBole .inter files."""
    items: str | None = None
    """Items with their titles: Parquet, CSV, TSV, .dat, JSON or RecBole .item files."""
    columns: Columns = Columns()
    format: TextFormat = TextFormat()
    """How the delimited text of the log is written."""
    items_format: TextFormat = TextFormat()
    """How the delimited text of the items is written."""
    time_format: str | None = None
    """How times are written, in the signs of Python's strptime, for example `%m/%d/%Y %I:%M:%S %p`; UTC where they hold
    no zone. null: numbers of any clock, or ISO 8601 dates."""
    encoding: str = "utf-8"
    """Encoding of the text files (log and items), for example latin-1."""
    on_bad_row: Literal["fail", "drop"] = "fail"
    """Rows of the log that cannot be read: refuse the log, or leave them out, counted and listed in the table
    `dropped`."""
    on_bad_item: Literal["fail", "drop"] = "fail"
    """Items without an id or a title, or again with another title: refuse the items file, or leave them out, counted
    and listed in `dropped`."""
    missing_ids: list[str] = Field(default_factory=lambda: ["nan", "null", "none", "\\N", "<NA>"])
    """Words that stand for a missing user or item id, in upper or lower case."""
    on_unknown_item: Literal["drop", "fail"] = "drop"
    """Interactions with an item that the items file lacks: leave them out, counted, or refuse the log."""
    min_rating: float | None = None
    """Keep only interactions with at least this rating as taken; negatives still avoid the others."""
    split: Literal["auto", "time", "last_two"] = "auto"
    """`time`: 8:1:1 of the interactions by global time; `last_two`: each user's last two items; `auto`: by time if
    the log has one."""
    history: int = Field(10, ge=1)
    """Items of the past that a prompt shows at most."""
    candidates: int = Field(20, ge=2)
    """Size of the candidate set: the target and uniformly drawn others."""
    seed: int = 0
    """Seed of the candidates; part of the protocol, unlike `seed`."""
    repeats: Literal["first", "keep"] = "first"
    """A user's interactions with one item: `first` counts only the first, and what was taken before is not recommended
    from the whole catalogue; `keep` counts each (music, groceries), and everything may be recommended."""
    since: str | None = None
    """Use only interactions from this time on: a number in the log's unit, or an ISO 8601 date where it has dates."""
    until: str | None = None
    """Use only interactions before this time."""
    users: float = Field(1.0, gt=0, le=1)
    """Use only this share of the users, chosen by hash of (data.seed, user)."""
    max_per_user: int | None = Field(None, ge=1)
    """Leave out users with more interactions than this: mostly they are no persons."""
    min_user: int = Field(0, ge=0)
    """Leave out users with fewer kept interactions than this, and items likewise with `data.min_item`, until none has
    (a k-core)."""
    min_item: int = Field(0, ge=0)
    """Leave out items with fewer kept interactions than this, from the catalogue too; 1 leaves out what nobody took."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        """The encoding under Python's name for it, so that two spellings are one setting."""
        try:
            "".encode(name)
            return codecs.lookup(name).name
        except LookupError as error:
            raise ValueError(
                f"'{name}' is no text encoding that Python knows; give one such as latin-1 or cp1252"
            ) from error

    @field_validator("time_format")
    @classmethod
    def _orders_times(cls, text: str | None) -> str | None:
        moment = datetime(2019, 11, 15, 21, 36, 28)
        try:
            if text is not None and datetime.strptime(moment.strftime(text), text).year == moment.year:
                return text
        except (ValueError, re.error):
            pass
        if text is not None:
            raise ValueError(f"'{text}' is no format of a date with a year; give one such as '%m/%d/%Y %I:%M:%S %p'")
        return text

    @model_validator(mode="after")
    def _ratings_known(self) -> DataSettings:
        if self.min_rating is not None and self.columns.rating is None:
            raise ValueError(
                f"data.min_rating {self.min_rating:g} needs ratings, but data.columns.rating is null; name the column, "
                "or set --data.min_rating null"
            )
        return self

    @field_validator("since", "until", mode="before")
    @classmethod
    def _as_written(cls, moment: Any) -> Any:
        """YAML reads a date as a date and a number as a number."""
        return str(moment) if isinstance(moment, int | float | date) and not isinstance(moment, bool) else moment

    @model_validator(mode="after")
    def _window_known(self) -> DataSettings:
        if bounds := [name for name in ("since", "until") if getattr(self, name) is not None and not self.columns.time]:
            raise ValueError(
                f"data.{bounds[0]} needs a time, but data.columns.time is null; name the column, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> DataSettings:
        own = [name for name in ("interactions", "items") if getattr(self, name) is not None]
        if self.sample != "none" and own:
            raise ValueError(
                f"data.{own[0]} is given beside data.sample {self.sample}, and only one log can be used; "
                "add --data.sample none for your own files"
            )
        if self.sample == "none" and len(own) < 2:
            raise ValueError("data.sample is none, so data.interactions and data.items must both name files")
        return self
