"""The search for the likeliest text, compared with all texts; and language models of n-grams."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoTokenizer

from lt25 import cli
from lt25.config.key import resolve
from lt25.data.transcripts import carry
from lt25.errors import UserError
from lt25.evaluation import transcribe as command
from lt25.evaluation.beam_search import BeamSearch
from lt25.evaluation.decoder import require, settled
from lt25.evaluation.ngrams import arpa_words, write_arpa
from lt25.evaluation.recogniser import Recogniser
from lt25.evaluation.speech_recognition import transcribe
from lt25.evaluation.words import align
from lt25.ops import greedy_ids
from lt25.tasks import DECODER, TASKS
from tests.data import make

from .fakes import FakeSplit
from .test_speech_recognition import EchoModel
from .test_transcribe import exported, recording

TEXTS = ["a b", "ab a", "b", "a ab"]


class Tokenizer:
    pad_token, pad_token_id, word_delimiter_token, word_delimiter_token_id = "<pad>", 0, "|", 1
    all_special_ids = (0, 1, 2)

    def __init__(self, letters="ab"):
        self.tokens = ["<pad>", "|", "<unk>", *letters]

    def get_vocab(self):
        return {token: number for number, token in enumerate(self.tokens)}

    def decode(self, ids, **_):
        return "".join(self.tokens[i] for i in ids).replace("|", " ")


class Sure(EchoModel):
    """Whose scores leave little doubt."""

    def __call__(self, **batch):
        output = super().__call__(**batch)
        return SimpleNamespace(logits=9 * output.logits, logit_lengths=output.logit_lengths)


PREPARE = resolve({}, TASKS["speech_recognition"].prepare)


def written_as(prepare, decoder, root=Path()):
    """Return an experiment, as far as a search asks for it."""
    return cast(Any, SimpleNamespace(path="x.yaml", root=root, prepare=prepare, evaluation={"decoder": decoder}))


def search(texts=TEXTS, letters="ab", **options):
    return BeamSearch(Tokenizer(letters), resolve(options, DECODER), texts)


def scores(frames, spaces=True):
    log_probs = torch.randn(frames, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    if not spaces:
        log_probs[:, 1] = -1e4
    return log_probs


def all_texts(log_probs):
    """Logarithm of the probability of each text, summed over all paths, whatever spaces are at its ends."""
    sums = {}
    for path in itertools.product([0, 1, 3, 4], repeat=len(log_probs)):
        written = "".join("|_ab"[symbol - 1] for symbol, _ in itertools.groupby(path) if symbol)
        text = " ".join(written.replace("|", " ").split())
        score = sum(log_probs[frame, symbol].double() for frame, symbol in enumerate(path))
        sums[text] = torch.logaddexp(sums.get(text, torch.tensor(-math.inf).double()), score)
    return {text: score.item() for text, score in sums.items()}


def read_arpa(path):
    lines = [line.split("\t") for line in path.read_text().splitlines() if "\t" in line]
    return {tuple(gram.split()): (float(p), float(*rest or [0])) for p, gram, *rest in lines}


def probability(grams, history, word):
    if (*history, word) in grams:
        return grams[(*history, word)][0]
    return grams.get(history, (0, 0))[1] + probability(grams, history[1:], word)


def test_what_may_follow_a_history_has_all_of_the_probability(tmp_path):
    write_arpa(tmp_path / "lm.arpa", [text.split() for text in TEXTS], 3)
    grams = read_arpa(tmp_path / "lm.arpa")
    words = [gram[0] for gram in grams if len(gram) == 1 and gram != ("<s>",)]
    assert sorted(words) == ["</s>", "<unk>", "a", "ab", "b"] and arpa_words(tmp_path / "lm.arpa") == ["a", "ab", "b"]
    for history in [(), ("a",), ("<s>",), ("<s>", "a"), ("b",), ("never", "said")]:
        assert sum(10 ** probability(grams, history, word) for word in words) == pytest.approx(1, abs=1e-5)
    # After "a", which was followed by three different words in three places: (1 + 3 p) / (3 + 3).
    below = 10 ** probability(grams, (), "ab")
    assert 10 ** probability(grams, ("a",), "ab") == pytest.approx((1 + 3 * below) / 6, abs=1e-5)


def test_without_a_language_model_the_search_finds_the_likeliest_of_all_texts():
    log_probs = scores(5)
    best = sorted(all_texts(log_probs).items(), key=lambda item: -item[1])[:4]
    found = search(beam=3000, alternatives=4)(log_probs[None])[0]
    assert [one.text for one in found] == [text for text, _ in best]
    assert [one.score for one in found] == pytest.approx([score for _, score in best], abs=1e-4)


@pytest.mark.parametrize("kind", ["words", "symbols"])
def test_a_language_model_adds_its_logarithms(tmp_path, kind):
    log_probs = scores(5, spaces=kind == "words")
    split = str.split if kind == "words" else lambda text: list(text.replace(" ", "|"))
    write_arpa(tmp_path / "lm.arpa", map(split, TEXTS), 3)
    grams, expected = read_arpa(tmp_path / "lm.arpa"), {}
    for text, score in all_texts(log_probs).items():
        if kind == "words" and not set(text.split()) <= {"a", "b", "ab"}:
            continue
        said = ["<s>", *split(text), "</s>"]
        model = sum(probability(grams, tuple(said[max(0, n - 2) : n]), said[n]) for n in range(1, len(said)))
        expected[text] = score + 0.7 * math.log(10) * model + (kind == "words") * 0.3 * len(text.split())
    best = sorted(expected.items(), key=lambda item: -item[1])[:4]
    options = {"beam": 3000, "alternatives": 4, "order": 3, "weight": 0.7, "word_score": 0.3}
    # Estimated, or from the file.
    for model in (kind, str(tmp_path / "lm.arpa")):
        found = search(language_model=model, **options)(log_probs[None])[0]
        assert [one.text for one in found] == [text for text, _ in best]
        assert [one.score for one in found] == pytest.approx([score for _, score in best], abs=1e-3)


def test_a_beam_of_one_is_the_best_path_whatever_is_padded():
    log_probs = torch.randn(6, 40, 5, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    log_probs[..., 2] = -1e4
    lengths = torch.tensor([40, 1, 7, 40, 23, 39])
    found = search(beam=1)(log_probs, lengths)
    greedy = [Tokenizer().decode(ids) for ids in greedy_ids(log_probs, lengths)]
    assert [one[0].text for one in found] == [" ".join(text.split()) for text in greedy]


def test_a_boosted_word_that_the_model_cannot_write_is_refused_with_its_letters():
    with pytest.raises(UserError, match=r"^boost: Anna: no word that the model can write: its letters are ab"):
        search(language_model="words", boost=["Anna"])


def test_a_boosted_word_is_heard_though_the_language_model_does_not_know_it():
    log_probs = scores(5)
    assert search(language_model="words")(log_probs[None])[0][0].text != "ba"
    assert search(language_model="words", boost=["ba"], boost_score=6)(log_probs[None])[0][0].text == "ba"


def test_boosted_words_are_written_as_transcripts_are():
    words = ["O’Neil", "ZÜRICH", "zürich", "Jean-Luc", "R2"]
    section = resolve({"language_model": "words", "boost": words}, DECODER)
    expected = ["o'neil", "zurich", "jean", "luc", "r", "two"]
    assert settled(written_as(PREPARE, section))["decoder"] == {**section, "boost": expected}
    umlauts = {
        **PREPARE,
        "alphabet": f"{PREPARE['alphabet']}ü2-",
        "transcripts": {**PREPARE["transcripts"], "digits": "keep"},
    }
    assert settled(written_as(umlauts, section))["decoder"]["boost"] == ["o'neil", "zürich", "jean-luc", "r2"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("?!", r"'\?!': nothing is left of it as transcripts are written: expected a word, or remove it"),
        ("Łódź", r"'Łódź': 'ł' is outside the alphabet abc.*z' \(prepare.alphabet\): write it in these letters"),
    ],
)
def test_a_boosted_word_that_no_transcript_has_is_one_line(word, said):
    section = resolve({"language_model": "words", "boost": ["anna", word]}, DECODER)
    with pytest.raises(UserError, match=rf"^x.yaml: evaluation.decoder.boost: {said}$"):
        settled(written_as(PREPARE, section))
    with pytest.raises(UserError, match=rf"^lt25 transcribe: --boost: {said}$"):
        command._decoder(written_as(PREPARE, {**section, "boost": []}), {"boost": [word]})


def test_a_vocabulary_of_words():
    tokenizer_words = ["one", "two"]
    log_probs = torch.full((4, 5), -9.0)
    for frame, symbol in enumerate([3, 1, 4, 0]):
        log_probs[frame, symbol] = 0
    for options in ({}, {"language_model": "words"}, {"language_model": "symbols"}):
        found = search(["one two", "two"], tokenizer_words, **options)(log_probs[None])[0][0]
        assert (found.text.replace(" ", ""), found.symbols) == ("onetwo", (3, 1, 4))


@pytest.mark.parametrize("options", [{"language_model": "words"}, {"language_model": "symbols"}, {}])
def test_words_are_written_in_the_pieces_that_training_wrote(options):
    log_probs = torch.full((4, 7), -9.0)
    # "ab" as a piece, a space, and "ab" with "b" as two.
    for frame, symbol in enumerate([5, 1, 5, 4]):
        log_probs[frame, symbol] = 0
    found = search(["ab abb", "abb"], ["a", "b", "ab", "ba"], **options)(log_probs[None])[0][0]
    assert (found.text, found.symbols) == ("ab abb", (5, 1, 5, 4))


def test_alignment_finds_the_symbols_where_they_are():
    log_probs = torch.full((9, 5), -8.0)
    for frame, symbol in enumerate([0, 3, 3, 0, 4, 1, 0, 4, 0]):
        log_probs[frame, symbol] = -0.1
    said = align(log_probs, [3, 4, 1, 4], Tokenizer(), 0.02, start=1)
    assert [(word.text, round(word.start, 3), round(word.end, 3)) for word in said] == [
        ("ab", 1.02, 1.1), ("b", 1.14, 1.16)
    ]  # fmt: skip
    assert said[0].confidence == pytest.approx(math.exp(-0.1), abs=1e-5)
    assert align(log_probs, [], Tokenizer(), 0.02) == []
    with pytest.raises(ValueError, match="need 11 frames, and the recording has 9"):
        align(log_probs, [3, 3, 4, 4, 3, 4, 3, 3], Tokenizer(), 0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"boost": ["anna"]}, r"boost: needs a language model of words"),
        (
            {"alternatives": 9, "beam": 3},
            r"alternatives: found 9, and beam is 3: expected at most as many: set beam to 9",
        ),
        (
            {"language_model": "gone.arpa"},
            r"language_model: gone.arpa: no such file: expected words, symbols or an ARPA",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        require(resolve(options, DECODER), "decoder.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"no line .1-grams:"),
        (b"\xff\xfe\\1-grams:\n", "as UTF-8 text"),
        (b"\\data\\\nngram 1=9\n\n\\1-grams:\n-1\tb\n\n\\end\\\n", "no language model that KenLM can read"),
        (b"\\1-grams:\nb\n", "as UTF-8 text"),
    ],
)
def test_a_file_that_is_no_language_model_is_one_line(tmp_path, capfd, content, said):
    make.write(tmp_path / "lm.arpa", content)
    with pytest.raises(UserError, match=said) as caught:
        search(language_model=str(tmp_path / "lm.arpa"))
    assert "\n" not in str(caught.value) and str(tmp_path / "lm.arpa") in str(caught.value)
    assert capfd.readouterr().err == ""


def test_evaluation_counts_the_errors_of_the_best_and_of_the_best_of_several():
    frames = [[3, 3, 1, 4], [4], [3, 0, 3, 1, 4]]
    split = FakeSplit([torch.tensor(f).half()[:, None] for f in frames], [[3, 1, 4], [4], [3, 4]])
    metrics, table = transcribe(Sure(), split, Tokenizer("abc"), 2, "test", search(letters="abc", alternatives=9))
    assert table["prediction"].tolist() == ["a b", "b", "aa b"] and metrics["wer"] == 0.5
    assert all(texts[0] == best for texts, best in zip(table["alternatives"], table["prediction"], strict=True))
    assert metrics["oracle_wer"] < metrics["wer"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("model"))


def test_utterances_are_searched_alike_as_a_stream_and_whole(model, tmp_path):
    recogniser = Recogniser(model)
    recogniser.search = BeamSearch(recogniser.tokenizer, resolve({"alternatives": 2}, DECODER))
    make.write(tmp_path / "a.wav", make.wav(recording(6)))
    heard = [list(recogniser.hear((tmp_path / "a.wav").read_bytes()))]
    heard.append([one for one in recogniser.hear_stream(str(tmp_path / "a.wav")) if one.final])
    whole, stream = ([(one.text, [other.text for other in one.alternatives]) for one in some] for some in heard)
    assert whole == stream and all(text == texts[0] and len(texts) == 2 for text, texts in whole)
    for words in ([word for one in some for word in one.words] for some in heard):
        assert all(word.start < word.end <= other.start + 1e-9 for word, other in itertools.pairwise(words))


def test_the_command_searches_and_aligns(model, tmp_path, capsys):
    make.write(tmp_path / "a.wav", make.wav(recording(2)))
    write_arpa(tmp_path / "lm.arpa", [["ab", "ba"], ["cab"]], 2)
    command = ["transcribe", str(model), str(tmp_path / "a.wav"), "--json"]
    options = [
        "--beam",
        "20",
        "--lm",
        str(tmp_path / "lm.arpa"),
        "--alternatives",
        "3",
        "--boost",
        "ÁBC!",
        "--lm-weight",
        "1",
    ]
    assert cli.main([*command, *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    (texts,) = answer["alternatives"]
    assert answer["text"] == texts[0]["text"] and len(texts) == 3 and texts[0]["score"] >= texts[1]["score"]
    assert {word for one in texts for word in one["text"].split()} <= {"ab", "ba", "cab", "abc"}
    make.write(tmp_path / "said.txt", "Ab, ba!\ncab")
    assert cli.main([*command, "--align", str(tmp_path / "said.txt")]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "ab ba cab" and [word["text"] for word in answer["words"]] == ["ab", "ba", "cab"]


def test_words_are_written_by_the_rule_that_the_model_was_trained_with(tmp_path, capsys):
    folder, audio = exported(tmp_path / "model"), tmp_path / "a.wav"
    make.write(audio, make.wav(recording(2)))
    make.write(tmp_path / "said.txt", "Ab, c-ba")
    write_arpa(tmp_path / "lm.arpa", [["ab"]], 2)
    align = ["transcribe", str(folder), str(audio), "--json", "--align", str(tmp_path / "said.txt")]
    boost = ["transcribe", str(folder), str(audio), "--lm", str(tmp_path / "lm.arpa"), "--boost"]
    assert cli.main(align) == 0 and json.loads(capsys.readouterr().out)["text"] == "ab c ba"
    carry(folder, {"transcripts": {"punctuation": "keep"}, "alphabet": "abc,A"})
    assert cli.main(align) == 2
    # The comma is a letter, which no unit of the model has; capitals are made small, although the alphabet has one.
    assert "the model cannot write 'ab,'" in capsys.readouterr().err
    make.write(tmp_path / "said.txt", "AB ba")
    assert cli.main(align) == 0 and json.loads(capsys.readouterr().out)["text"] == "ab ba"
    assert cli.main([*boost, "c-ba"]) == 2 and "'c-ba': '-' is outside the alphabet abc,A" in capsys.readouterr().err
    assert cli.main([*boost, "Ba"]) == 0
    # transformers keeps it where it writes the tokenizer again.
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    told = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert (told["transcripts"], told["alphabet"]) == ({"punctuation": "keep"}, "abc,A")
    capsys.readouterr()
    carry(folder, {"transcripts": {"case": "upper"}, "alphabet": "abc"})
    assert cli.main(align) == 2
    said = capsys.readouterr().err
    assert 'tokenizer_config.json: transcripts.case: found "upper"' in said and len(said.splitlines()) == 1


def test_options_stand_in_place_of_the_experiments_values(tmp_path):
    section = resolve({"language_model": "lm.arpa", "weight": 2}, DECODER)
    make.write(tmp_path / "lm.arpa", b"")
    experiment = written_as(PREPARE, section, tmp_path)
    assert command._decoder(experiment, {}) == {**section, "language_model": str(tmp_path / "lm.arpa")}
    given = command._decoder(experiment, {"beam": 7, "boost": ["Anna"]})
    assert (given["beam"], given["weight"], given["boost"]) == (7, 2, ["anna"])
    assert given["language_model"] == str(tmp_path / "lm.arpa")
    assert command._decoder(experiment, {"language_model": "symbols"})["language_model"] == "symbols"
    experiment.evaluation["decoder"] = None
    assert command._decoder(experiment, {}) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lm", "words"], "--lm words: a folder has no training split: name an experiment, or an ARPA file"),
        (["--beam", "0"], "decoder: beam: found 0"),
        (["--boost", "anna"], "decoder.boost: needs a language model of words"),
        (["--boost", "Anna", "--lm", "lm.arpa"], "--boost: 'Anna': 'n' is outside the alphabet abc"),
        (["--align", "said.txt"], "--align: expected --json, --srt or --vtt beside it"),
        (["--align", "said.txt", "--json"], "--align: said.txt: No such file or directory"),
    ],
)
def test_what_a_user_may_get_wrong_is_one_line(model, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    make.write(tmp_path / "a.wav", make.wav(recording(1)))
    write_arpa(tmp_path / "lm.arpa", [["ab"]], 2)
    assert cli.main(["transcribe", str(model), "a.wav", *arguments]) == 2
    assert said in capsys.readouterr().err
