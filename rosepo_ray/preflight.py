"""What can be known before the first stage: better a sentence now than the same one after hours."""

from __future__ import annotations

import importlib.util

from rosepo_ray.config import PretrainedPolicy, Settings
from rosepo_ray.errors import BadInput


def check(settings: Settings) -> None:
    """Raises BadInput where the encoder or the pre-trained model cannot be used. Fetches and converts a sample model,
    so that no two workers do it at once."""
    if settings.rejection.encoder != "tfidf" and importlib.util.find_spec("sentence_transformers") is None:
        raise BadInput(
            f"rejection.encoder {settings.rejection.encoder} needs sentence-transformers; pip install "
            "'rosepo_ray[semantic]', or use tfidf"
        )
    if isinstance(settings.policy, PretrainedPolicy):
        from rosepo_ray.policy import pretrained

        pretrained.check(settings.policy, settings.prompt.max_tokens)
