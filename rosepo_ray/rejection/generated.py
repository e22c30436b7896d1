"""`generated`: what the policy itself writes when it is wrong, whether that is an item or not."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

from pydantic import Field

from rosepo_ray.catalogue.items import Catalogue, title_key
from rosepo_ray.config.kinds import STRATEGIES
from rosepo_ray.rejection.base import Answers, Pool, RejectionRow, Strategy, StrategySettings, Want, untakeable


@STRATEGIES.kind
class Generated(StrategySettings):
    """A text that the policy writes itself when it is wrong, sampled: on-policy mistakes."""

    type: Literal["generated"] = "generated"
    temperature: float = Field(1.0, gt=0)
    """Temperature of the sampling."""
    tries: int = Field(4, ge=1)
    """Texts sampled per rejected item: the first that is wrong is taken; a row whose texts are all right has none."""

    @property
    def pool(self) -> Pool:
        return "texts"

    def build(self, catalogue: Catalogue) -> Strategy:
        return GeneratedStrategy(self, catalogue)


class GeneratedStrategy(Strategy):
    """The first sampled text that is neither the target, nor taken by the user, nor picked before.

    A text that names exactly one item is that item; any other, also one that several items bear, has no id: an oracle
    that scores items cannot judge it, so its ε is 0.
    """

    name: ClassVar[str] = "generated"
    wants: ClassVar[Want] = "texts"

    def __init__(self, settings: Generated, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.texts_per_slot, self.temperature = settings.tries, settings.temperature

    def draw(
        self, row: RejectionRow, slot: int, taken: AbstractSet[str], answers: Answers, seed: int
    ) -> tuple[str | None, str] | None:
        forbidden = untakeable(row, taken, self.catalogue)
        forbidden_texts = {
            title_key(self.catalogue.title_of(item)) for item in forbidden if item in self.catalogue.index
        }
        for text in answers.texts:
            key = title_key(text)
            if not key or key in taken or key in forbidden_texts:
                continue
            item = self.catalogue.named(text)
            if item is None:
                return None, text
            return item, self.catalogue.title_of(item)
        return None
