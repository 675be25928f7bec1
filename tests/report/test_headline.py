import pytest

from lt25.report.headline import count, duration, percent, plural, size, span
from lt25.report.language_modeling import headline


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.34, "0.3 s"), (48, "48 s"), (96, "1 min 36 s"), (840, "14 min"), (5460, "1 h 31 min"), (7200, "2 h")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_sizes_and_counts():
    assert [size(v) for v in (812, 1300, 2_500_000)] == ["812 B", "1.3 kB", "2.5 MB"]
    assert [count(v) for v in (612_874, 1_300_000, 2.5e9)] == ["612,874", "1.30 M", "2.50 G"]
    assert span([0.1234, 0.2], 100, 1) == "12.3–20.0"
    assert span(None, 100, 1) == ""


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.978, "97.8"), (1, "100.0"), (0, "0.0"), (0.9996, "99.96"), (0.00004, "0.004"), (1.25, "125.0")],
)
def test_what_is_not_all_is_not_said_to_be(share, said):
    assert percent(share, 1) == said


def test_one_is_not_several():
    assert [plural(n, "error") for n in (0, 1, 1200)] == ["0 errors", "1 error", "1,200 errors"]


def test_a_part_of_the_documents_is_not_said_to_be_all():
    metrics = {
        "bits_per_byte": 2.0,
        "bytes": 9000,
        "documents": 3,
        "documents_in_split": 8,
        "perplexity": 9,
        "compressors": {},
    }
    assert headline(metrics, "test").on == "9,000 bytes in 3 of 8 test documents"
    metrics["documents_in_split"] = 3
    assert headline(metrics, "test").on == "9,000 bytes in 3 test documents"
