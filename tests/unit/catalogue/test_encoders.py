"""Title encoders and nearness."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rosepo_ray.catalogue.encoders import build_encoder, nearest
from rosepo_ray.errors import BadInput

TITLES = ["Toy Story (1995)", "Toy Story 2 (1999)", "Heat (1995)", "Amélie (2001)", ""]


def test_tfidf_rows_have_unit_norm_and_an_empty_title_none() -> None:
    encoder = build_encoder("tfidf", TITLES)
    norms = np.sqrt(np.asarray(encoder.encode(TITLES).multiply(encoder.encode(TITLES)).sum(axis=1)).ravel())
    assert norms == pytest.approx([1, 1, 1, 1, 0], abs=1e-6)
    assert encoder.name == "tfidf"
    assert "lexical" in encoder.description


def test_tfidf_is_lexical() -> None:
    encoder = build_encoder("tfidf", TITLES)
    near = nearest(encoder.encode(["Toy Story (1995)"]), encoder.encode(TITLES))
    assert near[0] == pytest.approx(1, abs=1e-6)
    assert near[1] > near[2] > near[3]  # the sequel, then the same year, then neither


def test_tfidf_folds_case_spaces_and_unicode() -> None:
    encoder = build_encoder("tfidf", TITLES)
    near = nearest(encoder.encode(["AME\u0301LIE  (2001)"]), encoder.encode(["Amélie (2001)"]))
    assert near == pytest.approx([1], abs=1e-6)


def test_nearest_is_the_largest_cosine_by_hand() -> None:
    # Item (0.6, 0.8): cosines 0.6 to (1, 0) and 0.8 to (0, 1), so 0.8. Item (-1, 0): -1 and 0, so 0.
    history, items = np.array([[1.0, 0], [0, 1]]), np.array([[0.6, 0.8], [-1.0, 0]])
    assert nearest(history, items).tolist() == [0.8, 0.0]


def test_titles_without_text_cannot_be_fitted() -> None:
    with pytest.raises(BadInput, match="tfidf cannot be fitted on 2 titles"):
        build_encoder("tfidf", ["", " "])


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BadInput, match=r"pip install sentence-transformers"):
        build_encoder("some/model", TITLES)


def tiny_sentence_model(folder: Path) -> str:
    """A random two-layer BERT with mean pooling: small, but the real class reads and runs it."""
    models = pytest.importorskip("sentence_transformers.models", reason="needs rosepo_ray[semantic]")
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(c) for c in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = models.Transformer(str(folder / "bert"))
    pooling = models.Pooling(16)
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder / "model"))
    return str(folder / "model")


def test_a_sentence_transformers_model_by_path(tmp_path: Path) -> None:
    path = tiny_sentence_model(tmp_path)
    encoder = build_encoder(path, TITLES)
    vectors = encoder.encode(TITLES[:4])
    assert vectors.shape == (4, 16)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert nearest(vectors[:1], vectors)[0] == pytest.approx(1, abs=1e-5)
    assert path in encoder.description


def test_a_folder_that_is_no_model_is_bad_input(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs rosepo_ray[semantic]")
    with pytest.raises(BadInput, match="cannot be loaded"):
        build_encoder(str(tmp_path), TITLES)
