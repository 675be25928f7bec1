import os

import pytest

from lt25 import report
from lt25.errors import UserError


def test_a_row_an_experiment_with_the_compressors_beside(experiments):
    lines = report.table(experiments).splitlines()
    assert len(lines) == 5
    assert {line.count("|") for line in lines} == {7}
    assert lines[2].startswith("| `digits` | accuracy **92.8 %** (most frequent class 10.0 %, linear model 90.0 %) |")
    assert "gzip -9 " in lines[4]
    assert "600 steps, 1 min 36 s on CPU (2 cores)" in lines[3]


def test_the_table_between_the_marks_is_renewed_and_nothing_else(experiments, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# a\n\n<!-- results -->\nold\n<!-- results -->\n\nafter\n")
    report.renew_table(experiments, readme)
    text = readme.read_text()
    assert text == f"# a\n\n<!-- results -->\n{report.table(experiments)}<!-- results -->\n\nafter\n"
    before = readme.stat().st_mtime_ns
    report.renew_table(experiments, readme)
    assert readme.stat().st_mtime_ns == before


def test_a_file_without_the_marks_is_left_alone(experiments, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(UserError, match="expected two lines"):
        report.renew_table(experiments, readme)
    assert readme.read_text() == "nothing here\n"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.md").write_bytes("<!-- results -->\né<!-- results -->\n".encode("latin-1"))
    for name, said in (("pipe", "is a device or a pipe"), ("", "is a folder"), ("latin.md", "no text in UTF-8")):
        with pytest.raises(UserError, match=said):
            report.renew_table(experiments, tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        report.renew_table(experiments, tmp_path / "none.md")
