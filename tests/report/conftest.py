import pytest

from .trees import all_three


@pytest.fixture(scope="session")
def experiments(tmp_path_factory):
    return all_three(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def page(experiments, tmp_path_factory):
    from lt25 import report

    out = tmp_path_factory.mktemp("page") / "report.html"
    report.build(experiments, out)
    return out.read_text()
