"""What every group of settings is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_switches(cls, values: Any) -> Any:
        """Python counts `true` as 1; in a recipe it is a slip."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None:
                kinds = get_args(field.annotation) or (field.annotation,)
                if bool not in kinds and (int in kinds or float in kinds):
                    raise ValueError(f"{name} is {str(value).lower()}, but a number is needed")
        return values


def absolute_folder(name: str) -> str:
    """A folder here as an absolute path, since workers run in another directory; any other name as it is."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name
