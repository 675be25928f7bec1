import pytest

from lt25.config.key import resolve
from lt25.data.transcripts import normalise
from lt25.tasks import TASKS

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"


def learnt(text, alphabet=ALPHABET, **options):
    return normalise(
        text, resolve({"transcripts": options}, TASKS["speech_recognition"].prepare)["transcripts"], alphabet
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("  don’t\tstop —  it`s “fine”… ", "don't stop it's fine"),
        ("Café, naïve, Ångström, façade", "cafe naive angstrom facade"),
        ("ﬁne Ｗｉｄｅ", "fine wide"),
        ("well-known: e.g. (this/that)", "well known e g this that"),
        ("zero\u200bwidth soft\u00adhyphen no\u00a0break", "zerowidth softhyphen no break"),
        ("cafe\u0301", "cafe"),
        ("İstanbul", "istanbul"),
        ("a|b", "a b"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_ordinary_written_text_becomes_words(written, expected):
    assert learnt(written) == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0 7 13 40 99", "zero seven thirteen forty ninety nine"),
        ("I have 3 cats", "i have three cats"),
        ("100, 342 and 5,000", "one hundred three hundred forty two and five thousand"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        (
            "in 1984, 1905, 1900 and 2024",
            "in nineteen eighty four nineteen oh five nineteen hundred and twenty twenty four",
        ),
        ("2007", "two thousand seven"),
        ("1st 2nd 3rd 12th 20th 21st", "first second third twelfth twentieth twenty first"),
        ("the 1990s and the 80s", "the nineteen nineties and the eighties"),
        ("3.14", "three point one four"),
        ("007", "zero zero seven"),
        ("10:30", "ten thirty"),
        ("1,2,3", "one two three"),
        ("B2B", "b two b"),
        ("9" * 16, " ".join(["nine"] * 16)),
    ],
)
def test_numbers_are_read_in_english(written, expected):
    assert learnt(written) == expected


def test_what_the_alphabet_has_is_never_changed():
    assert learnt("Grüße, Zoë!", f"{ALPHABET}üß") == "grüße zoe"
    assert learnt("in 1984, 50%", f"{ALPHABET}0123456789%", digits="keep") == "in 1984 50%"
    assert learnt("Stop. Go!", f"{ALPHABET}.") == "stop. go"
    assert learnt("Don't", "dont") == "dont"


def test_what_is_read_aloud_and_letters_of_other_scripts_stay_to_be_refused():
    assert learnt("50% & $3 Ж ß") == "fifty % & $ three ж ß"


def test_each_step_can_be_switched_off():
    assert learnt("Mr. 5", ALPHABET, case="keep") == "Mr five"
    assert learnt("a, b", punctuation="keep") == "a, b"
    assert learnt("no 5", digits="keep") == "no 5"
    assert learnt("x²", f"{ALPHABET}²", unicode="NFC") == "x²"
