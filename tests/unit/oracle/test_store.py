"""An oracle on disk: the same scores after a round trip, and a version that names the files' content."""

import json

import pytest
import safetensors.torch

from rosepo_ray.errors import RosepoError
from rosepo_ray.oracle import store
from tests.unit.oracle.test_catalogue_scorer import sasrec_oracle


def test_the_version_follows_the_weights_and_is_no_secret_of_the_process(tmp_path):
    oracle = sasrec_oracle()
    before = store.save(oracle, tmp_path / "a")
    changed = sasrec_oracle()
    changed.models[0].final_norm.bias.data[0] += 1e-3
    assert store.save(changed, tmp_path / "b") != before
    assert len(before) == 12
    assert int(before, 16) >= 0


def test_only_safetensors_and_json_are_written(tmp_path):
    store.save(sasrec_oracle(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["oracle.json", "weights.safetensors"]
    description = json.loads((tmp_path / "oracle.json").read_text())
    assert (description["kind"], description["folds"], description["shape"]["hidden"]) == ("sasrec", 1, 8)
    assert description["popularity"] == [[7, 3, 1, 1, 0]]


def test_changed_files_are_refused(tmp_path):
    store.save(sasrec_oracle(), tmp_path)
    path = tmp_path / "oracle.json"
    original = path.read_text()
    path.write_text(original.replace('"temperature": 1.0', '"temperature": 3.0'))
    with pytest.raises(RosepoError, match="changed or copied"):
        store.load(tmp_path)
    path.write_text(original)
    tensors = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    tensors["fold0.final_norm.bias"] += 1
    safetensors.torch.save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(RosepoError, match="changed or copied"):
        store.load(tmp_path)


def test_a_folder_without_an_oracle_is_refused(tmp_path):
    with pytest.raises(RosepoError, match="holds no oracle"):
        store.load(tmp_path)
