"""Seams where a run chooses one of several kinds by `type`: an objective, a rejection strategy, an oracle, a policy.

A kind is a settings class in the file of what it configures, and enters itself there:

    @OBJECTIVES.kind
    class Simpo(ObjectiveSettings):
        type: Literal["simpo"] = "simpo"

A kind outside this package is named by its import path instead, `--align.objective.type my_package.losses:Mine`; such a
class declares `type: str`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import PydanticCustomError, core_schema

from rosepo_ray.config.section import Section
from rosepo_ray.errors import RosepoError


class Kind(Section):
    """Settings of one kind at a seam."""

    type: str


K = TypeVar("K", bound=type[Kind])


def type_of(settings: type[Kind]) -> str:
    """The name under which a kind of this package is chosen."""
    return str(settings.model_fields["type"].default)


class Seam:
    """Where one of several kinds stands, as the annotation of a settings field: `Annotated[Kind, ORACLES]`."""

    def __init__(self, what: str, default: str) -> None:
        self.what, self.default_type = what, default
        self._base: type[Kind] = Kind
        self._kinds: dict[str, type[Kind]] = {}

    def base(self, settings: K) -> K:
        """Enters the class that every kind here must come from, its own or a user's."""
        self._base = settings
        return settings

    def kind(self, settings: K) -> K:
        """Enters a settings class under the default of its field `type`."""
        self._kinds[type_of(settings)] = settings
        return settings

    def __iter__(self) -> Iterator[type[Kind]]:
        return iter(self._kinds.values())

    def default(self) -> Any:
        """The kind that is taken where nothing says another, with its defaults."""
        return self.make(self.default_type)

    def make(self, name: str) -> Any:
        """The settings of a type with their defaults."""
        return self.find(name).model_validate({"type": name})

    def find(self, name: str) -> type[Kind]:
        """The settings class of a type; raises ValueError with a sentence where there is none."""
        if not self._kinds:
            raise RosepoError(f"no {self.what} is known yet: import the package of its kinds before reading settings")
        if name in self._kinds:
            return self._kinds[name]
        if ":" not in name:
            raise ValueError(f"the type {name!r} is none of {', '.join(self._kinds)}, and no import path module:Class")
        try:
            found = pkgutil.resolve_name(name)
        except Exception as error:  # whatever the user's module raises
            raise ValueError(f"the type {name!r} cannot be imported ({type(error).__name__}: {error})") from error
        if not (isinstance(found, type) and issubclass(found, self._base)):
            raise ValueError(f"the type {name!r} is no settings class of a {self.what}; see docs/extending.md")
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump())
        return core_schema.no_info_plain_validator_function(self._validate, serialization=dump)

    def _validate(self, value: Any) -> Kind:
        if isinstance(value, self._base):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("model_type", "this is a section, so name a setting below it")
        name = str(value.get("type", self.default_type))
        settings = self.find(name)
        try:
            return settings.model_validate({**value, "type": name})
        except ValidationError as error:
            raise InKind(name, error) from error


class InKind(ValueError):
    """What is wrong inside the settings of a kind; pydantic would make one text of it."""

    def __init__(self, kind: str, error: ValidationError) -> None:
        super().__init__(str(error))
        self.kind, self.problems = kind, error.errors()


OBJECTIVES = Seam("preference objective", "conservative")
STRATEGIES = Seam("rejection strategy", "self_hard")
ORACLES = Seam("oracle", "sasrec")
POLICIES = Seam("policy", "scratch")
