"""Titles as vectors, and how near an item is to a history in that space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from rosepo_ray.catalogue.items import title_key
from rosepo_ray.errors import BadInput

Vectors = Any
"""np.ndarray or scipy CSR matrix [titles, features], rows of L2 norm 1 (0 for an empty title)."""


class TitleEncoder(Protocol):
    """Turns titles into vectors whose dot product is their cosine similarity."""

    @property
    def name(self) -> str:
        """As in the settings."""

    @property
    def description(self) -> str:
        """One phrase for reports: what kind of similarity this is."""

    def encode(self, titles: Sequence[str]) -> Vectors:
        """L2-normalised rows [len(titles), features]."""


class TfidfEncoder:
    """TF-IDF over character 3- to 5-grams inside word bounds (scikit-learn), fitted on the catalogue's titles.

    It is lexical: it sees shared spelling (sequels, years, shared words), not shared meaning.
    """

    name = "tfidf"
    description = "TF-IDF of character 3- to 5-grams: lexical, it sees spelling and not meaning"

    def __init__(self, titles: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer  # 1 s of import that other encoders do not need

        self._vectorizer = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(3, 5), preprocessor=title_key, sublinear_tf=True, dtype=np.float32
        )
        try:
            self._vectorizer.fit(titles)
        except ValueError as error:
            raise BadInput(
                f"the encoder tfidf cannot be fitted on {len(titles)} titles ({error}); give data.items titles"
            ) from error

    def encode(self, titles: Sequence[str]) -> Vectors:
        return sparse.csr_matrix(self._vectorizer.transform(titles))


class SentenceEncoder:
    """A sentence-transformers model by hub name or local path (Reimers and Gurevych 2019, arXiv:1908.10084)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.description = f"sentence embeddings of {name}"
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise BadInput(
                f"the encoder {name} needs the package sentence-transformers, which is not installed; "
                "run `pip install sentence-transformers` or take tfidf"
            ) from error
        try:
            self._model = SentenceTransformer(name)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"the encoder {name} cannot be loaded ({error}); give `tfidf`, the hub name of a "
                "sentence-transformers model, or a local folder with one"
            ) from error

    def encode(self, titles: Sequence[str]) -> Vectors:
        vectors = self._model.encode(list(titles), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def build_encoder(name: str, titles: Sequence[str]) -> TitleEncoder:
    """The encoder of that name; `titles` (the whole catalogue's) fit the TF-IDF.

    Raises:
        BadInput: the extra is not installed, the model cannot be loaded, or there is nothing to fit.
    """
    return TfidfEncoder(titles) if name == TfidfEncoder.name else SentenceEncoder(name)


def nearest(history_vecs: Vectors, item_vecs: Vectors) -> np.ndarray:
    """Nearness of each item to a history: the largest cosine similarity to one of its titles.

    Args:
        history_vecs: rows of an encoder [history, features], at least one.
        item_vecs: rows of the same encoder [items, features].

    Returns:
        float array [items].
    """
    product = item_vecs @ history_vecs.T
    dense = np.asarray(product.toarray() if sparse.issparse(product) else product)
    return np.asarray(dense.max(axis=1))
