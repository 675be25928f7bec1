from types import SimpleNamespace

import jiwer
import numpy as np
import pytest
import torch

from lt25.evaluation.alignment import aligned
from lt25.evaluation.speech_recognition import in_english, score, transcribe, wer_by_length

from .fakes import FakeSplit, LetterTokenizer


def test_errors_are_summed_before_they_are_divided():
    metrics, table = score(["one two three four", "five"], ["one too three", "five six"])
    assert (metrics["substitutions"], metrics["deletions"], metrics["insertions"], metrics["hits"]) == (1, 1, 1, 3)
    assert metrics["wer"] == pytest.approx(3 / 5)
    assert table["errors"].tolist() == [2, 1]
    references, hypotheses = table["reference"].tolist(), table["prediction"].tolist()
    assert metrics["wer"] == pytest.approx(jiwer.wer(references, hypotheses))
    assert metrics["cer"] == pytest.approx(jiwer.cer(references, hypotheses))


def test_without_an_error_the_interval_has_a_width():
    said = ["one two", "three"] * 10
    metrics, _ = score(said, said)
    assert metrics["wer"] == 0
    assert metrics["interval_95"][0] == 0
    assert 0.1 < metrics["interval_95"][1] < 0.2


def test_bars_of_rates_up_to_100_end_there():
    _, table = score(["one", "one two"], ["two", "one two"])
    (ax,) = wer_by_length(table).axes
    assert ax.get_ylim() == (0, 100)
    _, table = score(["one", "one two"], ["two three", "one two"])
    (ax,) = wer_by_length(table).axes
    assert ax.get_ylim()[1] > 200


def test_silence_and_an_empty_transcript():
    metrics, table = score(["", "one"], ["two two", ""])
    assert (metrics["insertions"], metrics["deletions"], metrics["reference_words"]) == (2, 1, 1)
    assert metrics["wer"] == 3.0
    assert table["words"].tolist() == [0, 1]


def test_alignment_names_each_word_once():
    assert aligned(jiwer.process_words("one two three", "one too three four")) == [
        ("equal", "one", "one"),
        ("substitute", "two", "too"),
        ("equal", "three", "three"),
        ("insert", "", "four"),
    ]
    assert aligned(jiwer.process_words("one two", "two")) == [("delete", "one", ""), ("equal", "two", "two")]


class EchoModel(torch.nn.Module):
    """Reads the symbol off each frame: the features are the answer."""

    device = torch.device("cpu")

    def forward(self, input_features, attention_mask):
        symbols = input_features[..., 0].round().long()
        logits = torch.nn.functional.one_hot(symbols, 6).float()
        return SimpleNamespace(logits=logits, logit_lengths=attention_mask.sum(1))


def test_every_utterance_meets_its_own_reference():
    frames = [[2, 2, 1, 3], [4], [2, 0, 2, 1, 5, 5, 3], [3, 3, 3]]
    said = [[2, 1, 3], [4], [2, 2, 1, 5, 3], [3, 3]]
    split = FakeSplit(
        [np.array(f, np.float16)[:, None] for f in frames], said, seconds=[1.0, 0.5, 2.0, 0.5], speaker=list("wxyz")
    )
    metrics, table = transcribe(EchoModel(), split, LetterTokenizer(), 2, "test")
    assert table["prediction"].tolist() == ["a b", "c", "aa db", "b"]
    assert table["reference"].tolist() == ["a b", "c", "aa db", "bb"]
    assert (metrics["substitutions"], metrics["hits"], metrics["utterances_without_error"]) == (1, 5, 3)
    assert metrics["seconds_of_audio"] == 4.0
    assert metrics["real_time_factor"] > 0
    assert table["speaker"].tolist() == list("wxyz")


def test_an_interval_over_speakers_is_as_wide_as_speakers_differ():
    said = ["one two three four"] * 60
    heard = [text if n % 6 else "one one one one" for n, text in enumerate(said)]
    speakers = [f"voice {n % 6}" for n in range(60)]
    plain, _ = score(said, heard)
    metrics, _ = score(said, heard, speakers)
    assert metrics["wer"] == plain["wer"] == 0.125
    (low, high), (plain_low, plain_high) = metrics["interval_95"], plain["interval_95"]
    # One voice of six makes all mistakes: of six drawn voices none may be that one.
    assert low == 0 and high - low > 1.5 * (plain_high - plain_low)
    assert metrics["by_speaker"]["voice 0"] == {
        "utterances": 10,
        "wer": 0.75,
        "interval_95": pytest.approx([0.5, 1], abs=0.3),
    }
    assert metrics["by_speaker"]["voice 3"]["wer"] == 0
    # Of few speakers an interval over them says nothing: it is that over utterances.
    assert (
        score(said, heard, ["a" if one[-1] in "01" else "b" for one in speakers])[0]["interval_95"]
        == plain["interval_95"]
    )


def test_words_taken_for_others_come_most_frequent_first():
    metrics, _ = score(["one two", "one two", "five", "nine"], ["one too", "one too", "five five", ""])
    assert metrics["confusions"] == [
        {"said": "two", "heard": "too", "count": 2},
        {"said": "", "heard": "five", "count": 1},
        {"said": "nine", "heard": "", "count": 1},
    ]


def test_in_english_spelling_does_not_count_and_words_do():
    said = ["it's nineteen eighty four", "mister smith um won't", "colour"]
    metrics, table = score(said, ["it is 1984", "mr smith will not", "collar"])
    found = in_english(table)
    assert metrics["wer"] > 0.8
    assert found["wer"] == pytest.approx(1 / 8) and found["reference_words"] == 8
    assert found["interval_95"][0] <= found["wer"] <= found["interval_95"][1]
