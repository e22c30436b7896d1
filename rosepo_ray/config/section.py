"""What every group of settings is."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator


class Text(str):
    """A value as the command line or the environment gives it: the setting decides what it means."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        """Texts become what their settings hold. Python counts `true` as 1; in a recipe that is a slip."""
        if not isinstance(values, dict):
            return values
        read = {name: cls._meant(name, value) if isinstance(value, Text) else value for name, value in values.items()}
        for name, value in read.items():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None:
                kinds = get_args(field.annotation) or (field.annotation,)
                if bool not in kinds and (int in kinds or float in kinds):
                    raise ValueError(f"{name} is {str(value).lower()}, but a number is needed")
        return read

    @classmethod
    def _meant(cls, name: str, text: Text) -> Any:
        """`null` is nothing where a setting may be nothing; else the text itself where it will do (`007` stays a name),
        else what YAML reads in it (a number, a list)."""
        if name not in cls.model_fields:
            return str(text)
        adapter = _adapter(cls, name)
        if text == "null" and _fits(adapter, None):
            return None
        if _fits(adapter, str(text)):
            return str(text)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            return str(text)
        return value if _fits(adapter, value) else str(text)


@cache
def _adapter(section: type[Section], name: str) -> TypeAdapter[Any]:
    annotation: Any = section.model_fields[name].annotation
    return TypeAdapter(annotation)


def _fits(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def absolute_folder(name: str) -> str:
    """A folder here as an absolute path, since workers run in another directory; any other name as it is."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name
