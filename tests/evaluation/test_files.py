import pytest

from lt25.evaluation.files import write_bytes, write_text


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    with pytest.raises(TypeError):
        write_bytes(path, object())
    assert path.read_text(encoding="utf-8") == "größer"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
