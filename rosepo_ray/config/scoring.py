"""How much a policy scores, writes and searches at once, in rejection, evaluation and the packaged model."""

from __future__ import annotations

from pydantic import Field

from rosepo_ray.config.section import Section


class ScoringSettings(Section):
    batch: int = Field(64, ge=1)
    """Examples per forward pass at most."""
    tokens: int = Field(4096, ge=64)
    """Tokens per forward pass at most, padding included: bounds its memory. A CPU is
    fastest where these fit its cache; give a GPU more."""
    cache_mib: int = Field(1024, ge=1)
    """Memory for the keys and values of a search through the catalogue, in MiB; a search that would need more gives
    way to scoring every title in chunks, with the same result."""
