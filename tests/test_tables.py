"""The tables of README.md and docs/ say what the descriptions say."""

import pytest

from lt25.config.sections import JOB
from lt25.tables import DOCS, renew, tables
from tests.tiny import REPOSITORY


@pytest.mark.parametrize("name", DOCS)
def test_the_tables_of_the_docs_are_in_step(name):
    text = (REPOSITORY / name).read_text()
    assert renew(text) == text, "run `python -m lt25.tables`"


def test_every_table_stands_somewhere_and_is_whole():
    docs = "".join((REPOSITORY / name).read_text() for name in DOCS)
    for name, made in tables().items():
        assert f"<!-- keys: {name} -->\n{made}<!-- end of keys -->" in docs
    for section, keys in JOB.items():
        assert all(f"`{section}.{name}" in tables()["training"] for name in keys)
