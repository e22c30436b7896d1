"""Markers: what makes a folder done, and what makes a done folder damaged."""

from pathlib import Path

from rosepo_ray.storage import done


def test_a_folder_is_done_with_its_marker_and_damaged_without_a_file(tmp_path: Path):
    assert done.read(str(tmp_path)) is None
    assert done.damage(str(tmp_path)) == "_done.json is missing"
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a").write_text("one")
    done.write(str(tmp_path), {"rows": 1}, 2.0)
    marker = done.read(str(tmp_path))
    assert marker is not None
    assert marker["info"] == {"rows": 1}
    assert marker["files"] == {
        "part/a": {"sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}  # sha256sum of "one"
    }
    assert done.damage(str(tmp_path)) is None
    (tmp_path / "part" / "a").write_text("two")
    assert done.damage(str(tmp_path)) == "part/a is not what was written"
    (tmp_path / "part" / "a").unlink()
    assert done.damage(str(tmp_path)) == "part/a is missing"
    for content in ('{"info"', "{}", "null", "[]", '{"files": [1]}', ""):
        (tmp_path / "_done.json").write_text(content)
        assert done.damage(str(tmp_path)) == "_done.json cannot be read"
