"""Files that people write: bombs, and keys that stand twice, are one line."""

import pytest

from lt25.config.files import parse_value, read_model, read_yaml
from lt25.errors import UserError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {
    "aliases": LAUGHS,
    "deep": "a: " + "[" * 10_000,
    "deep and closed": "a: " + "[" * 200 + "]" * 200,
    "mappings": "a: " + "{a: " * 100 + "1" + "}" * 100,
    "circle": "a: &a [*a]",
    "wide": "a: [" + "1," * 100_000 + "]",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_yaml_bomb_is_one_line(tmp_path, bomb):
    (tmp_path / "bomb.yaml").write_text(bomb)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "bomb.yaml", "experiment")
    assert "bomb.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "more than 100000 values, or nested more than 50 deep" in str(caught.value)
    with pytest.raises(UserError, match="command line: x: not a YAML value"):
        parse_value(bomb.split(": ", 1)[1] if "aliases" not in bomb else bomb, "command line: x")


@pytest.mark.parametrize(
    "bomb", ['{"a": ' * 100_000, '{"a": ' * 100 + "1" + "}" * 100, '{"a": [%s]}' % ("1," * 200_000 + "1")]
)
def test_a_json_bomb_is_one_line(tmp_path, bomb):
    (tmp_path / "bomb.json").write_text(bomb)
    with pytest.raises(UserError, match=r"bomb.json: more than 100000 values, or nested more than 50 deep"):
        read_model(tmp_path / "bomb.json", "here")


def test_an_alias_is_no_bomb(tmp_path):
    (tmp_path / "fine.yaml").write_text("one: &one {a: 1}\nother: *one\n")
    assert read_yaml(tmp_path / "fine.yaml", "experiment") == {"one": {"a": 1}, "other": {"a": 1}}


def test_a_key_that_stands_twice_is_named_with_its_line(tmp_path):
    (tmp_path / "twice.yaml").write_text("training:\n  steps: 3\n  seq_len: 4\n  steps: 5\n")
    with pytest.raises(UserError, match=r"twice.yaml:4: not valid YAML: the key steps stands twice"):
        read_yaml(tmp_path / "twice.yaml", "experiment")
    (tmp_path / "twice.json").write_text('{"hidden_size": 1, "hidden_size": 2}')
    with pytest.raises(UserError, match=r"twice.json: the key hidden_size stands twice: remove one"):
        read_model(tmp_path / "twice.json", "here")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"a: \x00", b"", b"- 1", b"!!python/object/apply:os.getcwd []", b"? [a]\n: 1"]
)
def test_whatever_else_stands_in_a_file_is_one_line(tmp_path, content):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"odd.yaml") as caught:
        read_yaml(tmp_path / "odd.yaml", "experiment")
    assert "\n" not in str(caught.value)
