import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from lt25.data.audio import from_int16, to_int16
from lt25.data.loader import StepBatches
from lt25.data.order import Reading, Share, draws
from lt25.data.prepared import PreparedSplit
from lt25.data.speech_recognition import collate, source, transforms
from lt25.errors import UserError
from tests.data import make

TEXTS = [f"{word} {other}" for word in ("one", "two", "three", "don't") for other in ("four", "five", "six", "seven")]


def speech(root, texts=TEXTS, **columns):
    make.audio_folder(root, texts)
    return make.dataset("speech_recognition", {"path": str(root)}, {"audio": "audio", "text": "text", **columns})


def stats(folder):
    return json.loads((folder / "stats.json").read_text())


def test_frames_labels_and_table(tmp_path):
    folder = make.prepared(tmp_path, "speech_recognition", speech(tmp_path / "mine"), n_mels=40)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert vocabulary["<pad>"] == 0 and vocabulary["|"] == 1 and len(vocabulary) == 30
    facts = stats(folder)
    assert facts["model"] == {"vocab_size": 30, "pad_token_id": 0, "input_size": 40}
    letters = {number: token for token, number in vocabulary.items()}
    for split in ("train", "validation", "test"):
        prepared = PreparedSplit(folder, split)
        table = prepared.table()
        for number, row in table.iterrows():
            item = prepared[number]
            assert item["input"].shape == (round(row.seconds * 100), 40) and item["input"].dtype == torch.float16
            assert item["label"].dtype == torch.int32
            assert "".join(letters[label] for label in item["label"].tolist()).replace("|", " ") == row.text
        assert facts["splits"][split]["frames"] == prepared.lengths.sum()
        assert facts["splits"][split]["characters"] == table.text.str.len().sum()
        assert facts["splits"][split]["seconds"] == pytest.approx(table.seconds.sum())
        assert ("audio" in table) == (split == "test")
    features = PreparedSplit(folder, "train").shards["inputs"].float()
    assert features.mean(0).abs().max() < 0.02 and (features.std(0) - 1).abs().max() < 0.02


def test_extractor_and_tokenizer_are_one_processor(tmp_path):
    from transformers import AutoProcessor

    import lt25

    lt25.register()
    folder = make.prepared(tmp_path, "speech_recognition", speech(tmp_path / "mine"), n_mels=40)
    processor = AutoProcessor.from_pretrained(folder)
    batch = processor(
        audio=[np.zeros(1600, np.float32), np.zeros(800, np.float32)], text=["one", "don't"], padding=True
    )
    assert np.asarray(batch["input_features"]).shape == (2, 10, 40)
    assert np.asarray(batch["attention_mask"]).sum(1).tolist() == [10, 5]
    assert [len(labels) for labels in batch["labels"]] == [5, 5]
    assert processor.batch_decode(processor.tokenizer(["two"]).input_ids) == ["two"]


def test_the_same_files_give_the_same_bytes(tmp_path):
    data = speech(tmp_path / "mine")
    one, other = (make.prepared(tmp_path / name, "speech_recognition", data) for name in ("a", "b"))
    assert stats(one) == stats(other)
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_speakers_are_disjoint_and_counted(tmp_path):
    make.audio_folder(
        tmp_path / "mine", [f"{text},s{n % 16}" for n, text in enumerate(2 * TEXTS)], "file_name,text,speaker"
    )
    columns = {"audio": "audio", "text": "text", "group": "speaker"}
    data = make.dataset("speech_recognition", {"path": "mine"}, columns)
    facts = stats(make.prepared(tmp_path, "speech_recognition", data))["splits"]
    speakers = [set(facts[split]["speakers"]) for split in facts]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 16


def test_transcripts_are_learnt_in_lower_case_with_single_spaces(tmp_path):
    folder = make.prepared(tmp_path, "speech_recognition", speech(tmp_path / "mine", [" ONE  Two "] * 1 + TEXTS))
    tables = [PreparedSplit(folder, split).table() for split in ("train", "validation", "test")]
    assert "one two" in {text for table in tables for text in table.text}


def test_audio_at_another_rate_and_in_stereo_is_brought_to_that_of_the_options(tmp_path):
    import io

    import soundfile

    data = speech(tmp_path / "mine")
    time = np.arange(8000) / 8000
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.stack([np.sin(880 * np.pi * time)] * 2, axis=1), 8000, format="WAV")
    (tmp_path / "mine/0.wav").write_bytes(buffer.getvalue())
    folder = make.prepared(tmp_path, "speech_recognition", data)
    tables = [PreparedSplit(folder, split).table() for split in ("train", "validation", "test")]
    assert [row.seconds for table in tables for row in table.itertuples() if row.id == "0.wav"] == [1.0]


def test_names_headers_and_channels_as_strangers_have_them_are_read(tmp_path):
    rng, sound = np.random.default_rng(0), 0.1 * np.random.default_rng(1).standard_normal(8000)
    silent = np.zeros_like(sound)
    odd = {
        "Ärger mit  Lücken & ß'#%.wav": make.wav(sound),
        "Zoe\u0308.wav": make.wav(sound),
        "an MP3.wav": make.audio(rng, 0.5, container="MP3"),
        "one silent channel.wav": make.wav(np.stack([sound, silent], 1)),
        "channels that cancel.wav": make.wav(np.stack([sound, -sound], 1)),
    }
    texts = [*TEXTS, *TEXTS]
    make.audio_folder(tmp_path / "mine", texts)
    rows = [*(f"{number}.wav,{text}" for number, text in enumerate(texts)), *(f"{name},one" for name in odd)]
    for name, content in odd.items():
        make.write(tmp_path / "mine" / name, content)
    # With the mark that a spreadsheet writes before UTF-8, and a letter that it writes as one.
    table = "\n".join(["file_name,text", *rows]).replace("Zoe\u0308", "Zo\u00eb")
    make.write(tmp_path / "mine/metadata.csv", table.encode("utf-8-sig"))
    data = make.dataset("speech_recognition", {"path": "mine"}, {"audio": "audio", "text": "text"})
    folder = make.prepared(tmp_path, "speech_recognition", data, faulty="stop", store="audio")
    found = {}
    for split in ("train", "validation", "test"):
        prepared = PreparedSplit(folder, split)
        found |= {row.id: prepared[number]["input"] for number, row in prepared.table().iterrows()}
    assert len(found) == len(rows) and set(odd) <= set(found)
    for name in odd:
        assert len(found[name]) == 8000 and from_int16(found[name]).std() > 0.04, name


def test_a_transcript_outside_the_alphabet_is_named_with_the_keys_that_admit_it(tmp_path, capsys):
    texts = [*5 * TEXTS, "five % of ß", "% 2", "Naïve: isn’t it?"]
    data, options = speech(tmp_path / "mine", texts), {"transcripts": {"digits": "keep"}}
    with pytest.raises(UserError, match=r"80.wav: column text: characters outside the alphabet: % \(1\), ß \(1\)"):
        make.prepared(tmp_path, "speech_recognition", data, faulty="stop", **options)
    folder = make.prepared(tmp_path, "speech_recognition", data, **options)
    facts = stats(folder)["splits"]
    assert sum(fact["examples"] for fact in facts.values()) == 81
    assert sum((Counter(fact["excluded"]) for fact in facts.values()), Counter()) == {
        "a transcript outside the alphabet": 2
    }
    said = capsys.readouterr().err
    assert "characters that prepare.alphabet lacks: % (2), 2 (1), ß (1); prepare.alphabet or" in said
    assert "prepare.transcripts.digits (words) admits them" in said
    texts = [text for split in facts for text in PreparedSplit(folder, split).table().text]
    assert "naive isn't it" in texts


@pytest.mark.parametrize(
    ("text", "subsampling", "fits"),
    [("ab" * 8, 2, True), ("ab" * 8 + "a", 2, False), ("aab" * 4, 2, True), ("aab" * 4 + "a", 2, False)],
)
def test_a_transcript_fits_its_audio_after_subsampling(tmp_path, text, subsampling, fits):
    # The first recording has 32 frames, 16 of which are left; the others have 20 at least.
    others = ["one", "two", "six", "ten", *"abcdefghijklmnop"]
    data = speech(tmp_path / "mine", [text, *others])
    make.write(tmp_path / "mine/0.wav", make.audio(np.random.default_rng(0), 0.32, container="WAV"))
    folder = make.prepared(tmp_path, "speech_recognition", data, model={"subsampling": subsampling})
    assert sum(fact["examples"] for fact in stats(folder)["splits"].values()) == len(others) + fits
    assert make.experiment(tmp_path, "speech_recognition", data).processed_dir != folder


def test_an_alphabet_of_ones_own(tmp_path):
    data = speech(tmp_path / "mine", [*TEXTS, "naïve 2"])
    folder = make.prepared(tmp_path, "speech_recognition", data, alphabet="abcdefghijklmnopqrstuvwxyz'ï2")
    assert stats(folder)["model"]["vocab_size"] == 32


def test_words_as_units(tmp_path):
    data = speech(tmp_path / "mine", 10 * TEXTS)
    folder = make.prepared(tmp_path, "speech_recognition", data, units="words")
    words = sorted({word for text in TEXTS for word in text.lower().split()})
    assert stats(folder)["model"]["vocab_size"] == 3 + len(words)
    from transformers import AutoTokenizer

    tokenizer, split = AutoTokenizer.from_pretrained(folder), PreparedSplit(folder, "train")
    labels, text = split[0]["label"].tolist(), split.table().text[0]
    assert tokenizer.decode(labels, group_tokens=False) == text
    assert len(labels) == 2 * len(text.split()) - 1


def test_pieces_of_words_as_units(tmp_path):
    # Held out are words that train may lack: their characters are pieces too.
    data = speech(tmp_path / "mine", [*10 * TEXTS, *(4 * letter for letter in "ghjkq")])
    folder = make.prepared(tmp_path, "speech_recognition", data, units="bpe", vocab_size=40)
    facts = stats(folder)
    assert facts["model"]["vocab_size"] == 40 and not any(fact.get("excluded") for fact in facts["splits"].values())
    from transformers import AutoTokenizer

    tokenizer, joined = AutoTokenizer.from_pretrained(folder), 0
    for name in facts["splits"]:
        split = PreparedSplit(folder, name)
        for number, text in enumerate(split.table().text):
            labels = split[number]["label"].tolist()
            assert tokenizer.decode(labels, group_tokens=False) == text
            assert labels.count(1) == text.count(" ")
            joined += len(text) - len(labels)
    assert joined > 300
    again = make.prepared(tmp_path / "again", "speech_recognition", data, units="bpe", vocab_size=40)
    assert (folder / "vocab.json").read_bytes() == (again / "vocab.json").read_bytes()


def test_fewer_pieces_than_were_asked_for_are_said(tmp_path, capsys):
    data = speech(tmp_path / "mine", [*10 * TEXTS, *(4 * letter for letter in "ghjkq")])
    folder = make.prepared(tmp_path, "speech_recognition", data, units="bpe", vocab_size=5000)
    there = stats(folder)["model"]["vocab_size"]
    assert there < 5000 and f"vocab_size is 5000, and train's words give {there}" in capsys.readouterr().err


def test_a_word_that_train_lacks_is_left_out(tmp_path):
    data = speech(tmp_path / "mine", [*5 * TEXTS, *(4 * letter for letter in "abcdef")])
    folder = make.prepared(tmp_path, "speech_recognition", data, units="words")
    facts = stats(folder)["splits"]
    held_out = {split: fact.get("excluded", {}).get("a word that train lacks", 0) for split, fact in facts.items()}
    assert held_out["train"] == 0 < sum(held_out.values())


def test_segments_of_a_long_file(tmp_path):
    """A manifest as NeMo writes it: the third second of a file is another utterance than the first."""
    loudness, rows = [0.01, 0.3, 0.03, 0.1], []
    rng = np.random.default_rng(0)
    for number in range(12):
        samples = np.concatenate([each * rng.standard_normal(8000) for each in loudness])
        make.write(tmp_path / f"mine/long{number}.wav", make.wav(samples.astype(np.float32), 8000))
        for second in range(4):
            said = {"text": "one two", "offset": second + 0.25, "duration": 0.5}
            rows.append({"audio_filepath": f"long{number}.wav", **said})
    rows += [{**rows[0], "offset": offset} for offset in ("soon", 7.5)]
    make.write(tmp_path / "mine/manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    columns = {"audio": "audio_filepath", "text": "text", "start": "offset", "duration": "duration"}
    data = make.dataset("speech_recognition", {"path": "mine"}, columns)
    folder = make.prepared(tmp_path, "speech_recognition", data, store="audio", sample_rate=8000)
    facts = stats(folder)["splits"]
    assert sum((Counter(fact.get("excluded", {})) for fact in facts.values()), Counter()) == {
        "a segment that is not there": 2
    }
    files = []
    for name in facts:
        split = PreparedSplit(folder, name)
        table = split.table()
        files.append(set(table.path))
        assert len(set(table.id)) == len(table) and set(table.seconds) == {0.5}
        for number, row in table.iterrows():
            samples = from_int16(split[number]["input"])
            second = int(float(row.id.split("@")[1]))
            assert float(samples.square().mean().sqrt()) == pytest.approx(loudness[second], rel=0.1)
    # Of a file nothing is in two splits, and the test split keeps segments, not files.
    assert sum(map(len, files)) == len(set.union(*files)) == 12
    test = PreparedSplit(folder, "test")
    from lt25.data.audio import decode_audio

    assert np.array_equal(to_int16(decode_audio(test.table().audio[0], 8000)), test[0]["input"].numpy())


def test_a_long_file_is_read_once_a_pass_and_its_segments_are_no_duplicates(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).standard_normal(8000 * 20).astype(np.float32) / 9
    make.write(tmp_path / "mine/long.wav", make.wav(noise, 8000))
    # Of one file, as a meeting is, whose speakers are on several sides.
    rows = "".join(f"long.wav,one,{second},{second + 1},{second % 4}\n" for second in range(20))
    make.write(tmp_path / "mine/all.csv", f"audio,text,start,end,speaker\n{rows}")
    columns = {role: role for role in ("audio", "text", "start", "end")} | {"group": "speaker"}
    splits = {
        "train": "all",
        **{name: {"from": "train", "groups": [k]} for name, k in (("validation", 1), ("test", 2))},
    }
    reads, read_bytes = Counter(), Path.read_bytes

    def counted(path):
        reads[path.name] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    data = make.dataset("speech_recognition", {"path": "mine"}, columns, splits)
    facts = stats(make.prepared(tmp_path, "speech_recognition", data, sample_rate=8000))
    assert [fact["examples"] for fact in facts["splits"].values()] == [10, 5, 5]
    assert facts["shared"] == {} and reads["long.wav"] < 10


def test_utterances_of_one_id_are_said(tmp_path, capsys):
    make.write(tmp_path / "mine/all.csv", "audio,text,id\n")
    noise = np.random.default_rng(0)
    for number in range(40):
        make.write(tmp_path / f"mine/{number}.wav", make.wav(noise.standard_normal(4000).astype(np.float32) / 9, 8000))
        with (tmp_path / "mine/all.csv").open("a") as table:
            table.write(f"{number}.wav,one,{max(number, 2)}\n")
    columns = {role: role for role in ("audio", "text", "id")}
    make.prepared(tmp_path, "speech_recognition", make.dataset("speech_recognition", {"path": "mine"}, columns))
    assert "2 examples have the id of another, the first all.csv, line 3: 1.wav" in capsys.readouterr().err


def test_a_part_of_few_groups_may_be_empty_and_the_message_says_so_before_the_work(tmp_path, capsys):
    rows = "".join(f"{number}.wav,one,bert\n" for number in range(4))
    make.write(tmp_path / "mine/all.csv", f"audio,text,speaker\n{rows}")
    for number in range(4):
        make.write(tmp_path / f"mine/{number}.wav", make.wav(np.linspace(-0.5, 0.5, 8000, dtype=np.float32), 8000))
    columns = {"audio": "audio", "text": "text", "group": "speaker"}
    data = make.dataset("speech_recognition", {"path": "mine"}, columns)
    with pytest.raises(UserError, match=r"no examples: of the column speaker whole groups are held out: .*groups: \["):
        make.prepared(tmp_path, "speech_recognition", data)
    assert "utterances" not in capsys.readouterr().err


def test_a_missing_column_is_named(tmp_path):
    data = speech(tmp_path / "mine", text="transcript")
    with pytest.raises(UserError, match=r"metadata.csv: no column transcript: it has file_name, text"):
        make.prepared(tmp_path, "speech_recognition", data)


def test_an_audio_column_without_audio_is_named(tmp_path):
    make.parquet(tmp_path / "mine/all.parquet", [{"audio": "a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"}])
    with pytest.raises(UserError, match=r"all.parquet, row 0: column audio: no such file: 'a.wav': mend or remove it"):
        make.prepared(
            tmp_path, "speech_recognition", make.dataset("speech_recognition", {"path": "mine"}), faulty="stop"
        )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same recordings, prepared as features and as audio."""
    root = tmp_path_factory.mktemp("stored")
    data = speech(root / "mine")
    return {
        store: make.prepared(root, "speech_recognition", data, n_mels=40, store=store)
        for store in ("features", "audio")
    } | {"recorded": make.prepared(root, "speech_recognition", data, n_mels=40, store="audio", level="recorded")}


def test_features_of_stored_audio_are_those_that_are_stored(stored):
    facts = {store: stats(folder) for store, folder in stored.items()}
    for part in ("splits", "model"):
        assert facts["audio"][part] == facts["features"][part]
    for split in ("train", "validation", "test"):
        features, audio = (PreparedSplit(stored[store], split) for store in ("features", "audio"))
        assert audio[0]["input"].dtype == torch.int16
        assert source(audio, 0)[0]["input"].ndim == 1
        assert np.array_equal(source(audio, 0).lengths, source(features, 0).lengths)
        transform = transforms(audio, {"gain_db": [-6, 6]}, training=False)
        for number in range(len(features)):
            item = transform.of_item(audio[number])
            assert torch.equal(item["label"], features[number]["label"])
            torch.testing.assert_close(item["input"].half(), features[number]["input"], rtol=1e-3, atol=2e-3)


def test_batches_of_audio_have_the_shapes_of_batches_of_features(stored):
    reading = Reading(Share(3), seed=1)
    streams = [
        iter(StepBatches(PreparedSplit(stored[store], "train"), "speech_recognition", reading, few_shapes=True))
        for store in ("features", "audio")
    ]
    for _ in range(4):
        (features, labels), (audio, others) = (next(stream) for stream in streams)
        assert torch.equal(labels, others)
        assert torch.equal(features["attention_mask"], audio["attention_mask"])
        torch.testing.assert_close(features["input"], audio["input"], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("changes", [("speed",), ("tempo",), ("speed", "tempo")], ids="-".join)
@pytest.mark.parametrize("rank", [0, 1])
def test_batches_are_formed_by_the_lengths_that_utterances_have_once_they_are_played(stored, changes, rank):
    split, seed = PreparedSplit(stored["audio"], "train"), 3
    # Speeds are factors that make no whole number of samples, and pitch leaves the length alone.
    factors = {"speed": [0.5, 0.93, 1, 1.97], "tempo": [0.71, 1.3], "pitch": [0.9, 1.1], "gain_db": [-6, 6]}
    augment = {name: factors[name] for name in (*changes, "pitch", "gain_db")}
    reading = Reading(Share(8, 1, rank, 2, batch_steps=400), seed)

    def loader(**options):
        return StepBatches(split, "speech_recognition", reading, augment=augment, few_shapes=True, **options)

    stream, formed = loader(options={"num_workers": 1}), transforms(split, augment, training=True).lengths
    drawn = draws(stream.source, stream.share, seed, 0, lengths=lambda epoch: formed(range(len(split)), seed, epoch))
    given, states = [], []
    for (inputs, labels), draw in zip(stream, islice(drawn, 24), strict=False):
        assert inputs["attention_mask"].sum(1).tolist() == formed(draw.indices, seed, draw.epoch).tolist()
        assert inputs["attention_mask"].numel() <= 400 or len(labels) == 1
        given.append(inputs["input"])
        states.append(stream.state_dict())
    assert draw.epoch > 1
    assert max(formed(range(len(split)), seed, 0)) > 1.2 * stream.source.lengths.max()
    for at in (1, 9, 17):
        resumed = loader()
        resumed.load_state_dict(states[at])
        again = [inputs["input"] for inputs, _ in islice(resumed, 3)]
        assert all(map(torch.equal, again, given[at + 1 : at + 4]))
    assert len(stream.longest()["input"]) == max(formed(range(len(split)), seed, epoch).max() for epoch in range(200))


def test_a_gain_lies_between_its_bounds_and_is_drawn_anew_in_every_epoch(stored):
    split = PreparedSplit(stored["recorded"], "train")
    transform = transforms(split, {"gain_db": [-12, -6]}, training=True)
    std = torch.tensor(json.loads((split.path / "preprocessor_config.json").read_text())["std"])
    plain = transforms(split, {}, training=True).of_item(split[0])["input"]
    gains = []
    for epoch in range(20):
        # The noise is far above the floor, so a gain adds to the logarithm of the power in every band alike.
        moved = (transform.of_item(split[0], 1, epoch, 0)["input"] - plain) * std
        gains.append(moved.median().item() * 10 / np.log(10))
        assert moved.std() < 0.01
    assert -12.01 <= min(gains) < -10 and -8 < max(gains) <= -6
    assert len(set(gains)) == 20


def test_a_gain_cuts_off_what_exceeds_full_scale(stored):
    split = PreparedSplit(stored["recorded"], "train")
    waveform, gain, _ = transforms(split, {"gain_db": [40, 40]}, training=True).item
    louder = gain(waveform(split[0], None), torch.Generator())["input"]
    assert louder.min() == -1 and louder.max() == 32767 / 32768


def test_a_gain_rounds_to_sixteen_bits(stored):
    split = PreparedSplit(stored["recorded"], "train")
    waveform, gain, _ = transforms(split, {"gain_db": [-30, -30]}, training=True).item
    softer = gain(waveform(split[0], None), torch.Generator())["input"]
    assert torch.equal(softer * 32768, (softer * 32768).round()) and softer.any()


def test_speed_makes_audio_shorter_and_higher(stored):
    split = PreparedSplit(stored["audio"], "train")
    waveform, speed, _ = transforms(split, {"speed": [0.8, 1.25]}, training=True).item
    tone = {**split[0], "input": torch.from_numpy(to_int16(np.sin(2 * np.pi * 500 * np.arange(8000) / 16000) / 2))}
    played = [speed(waveform(tone, None), torch.Generator().manual_seed(seed))["input"] for seed in range(8)]
    assert {len(samples) for samples in played} == {10000, 6400}
    for samples in played:
        spectrum = np.abs(np.fft.rfft(samples.numpy()))
        hz = spectrum.argmax() * 16000 / len(samples)
        assert hz == pytest.approx(500 * 8000 / len(samples), abs=3)


def test_an_equaliser_changes_the_spectrum_smoothly_and_within_its_bounds(stored):
    split = PreparedSplit(stored["audio"], "train")
    waveform, equalise, _ = transforms(split, {"equalise_db": 12}, training=True).item
    impulse = np.zeros(8000)
    impulse[4000] = 0.5
    item = waveform({**split[0], "input": torch.from_numpy(to_int16(impulse))}, None)
    drawn = []
    for seed in range(10):
        played = equalise(item, torch.Generator().manual_seed(seed))["input"]
        assert played.shape == item["input"].shape and played.dtype == torch.float32
        response = 20 * np.log10(np.abs(np.fft.rfft(played.numpy()[3000:5000])) / 0.5)
        assert np.abs(response).max() < 12.1 and np.abs(np.diff(response[25:])).max() < 1.5
        drawn.append(response[250])
    assert max(drawn) - min(drawn) > 8
    assert torch.equal(played, equalise(item, torch.Generator().manual_seed(9))["input"])


def test_noise_has_the_ratio_that_is_asked_for(stored):
    split = PreparedSplit(stored["audio"], "train")
    waveform, noise, _ = transforms(split, {"noise_db": [3, 30]}, training=True).item
    item = waveform(split[0], None)
    ratios, slopes = [], []
    for seed in range(40):
        added = (noise(item, torch.Generator().manual_seed(seed))["input"] - item["input"]).numpy()
        ratios.append(10 * np.log10(item["input"].square().mean().item() / np.square(added).mean()))
        power = np.square(np.abs(np.fft.rfft(added)))
        low, high = (power[int(at * len(power)) : int(2 * at * len(power))].mean() for at in (0.05, 0.4))
        slopes.append(10 * np.log10(low / high) / 3)
    assert 2.9 < min(ratios) < 8 and 25 < max(ratios) < 30.1
    assert -2 < min(slopes) < 2 and 4 < max(slopes) < 8


def test_noise_of_silence_is_silence(stored):
    _, noise, _ = transforms(PreparedSplit(stored["audio"], "train"), {"noise_db": [3, 30]}, training=True).item
    assert not noise({"input": torch.zeros(800)}, torch.Generator())["input"].any()


@pytest.mark.parametrize("store", ["features", "audio"])
def test_masks_cover_some_frames_and_bands_with_the_mean(stored, store):
    split = PreparedSplit(stored[store], "train")
    masks = {"time_masks": 2, "time_width": 0.2, "band_masks": 1, "band_width": 8}
    transform, plain = transforms(split, masks, training=True), transforms(split, {}, training=True)
    whole, before = plain.of_item(split[0])["input"], split[0]["input"].clone()
    drawn = []
    for epoch in range(20):
        masked = transform.of_item(split[0], 1, epoch, 0)["input"]
        assert torch.equal(masked[masked != 0], whole[masked != 0])
        frames, bands = (masked == 0).all(1), (masked == 0).all(0)
        assert frames.sum() <= 2 * int(0.2 * len(whole)) and bands.sum() <= 8
        assert torch.equal(masked == 0, frames[:, None] | bands | (whole == 0))
        drawn.append(frames.sum() + bands.sum())
    assert max(drawn) > 3 and len(set(map(int, drawn))) > 3
    assert torch.equal(split[0]["input"], before), "what is stored stays as it is"
    assert torch.equal(transforms(split, masks, training=False).of_item(split[0])["input"], whole)


@pytest.mark.parametrize("store", ["features", "audio"])
def test_two_views_have_masks_of_their_own_and_all_else_in_common(stored, store):
    split = PreparedSplit(stored[store], "train")
    masks = {"time_masks": 2, "time_width": 0.3, "band_masks": 1, "band_width": 8}
    augment = {"speed": [0.8, 1.25], "noise_db": [10, 20], "gain_db": [-6, 6]} if store == "audio" else {}
    plain = transforms(split, augment, training=True)
    transform = transforms(split, {**augment, **masks, "consistency": 0.2}, training=True)
    items = [transform.of_item(split[index], 1, 3, index) for index in range(2)]
    for index, item in enumerate(items):
        whole, hidden = (
            plain.of_item(split[index], 1, 3, index)["input"],
            [item[view] == 0 for view in ("input", "second")],
        )
        for view, mask in zip(("input", "second"), hidden, strict=True):
            assert torch.equal(item[view], whole.masked_fill(mask, 0)) and mask.any()
        assert not torch.equal(*hidden)
    batch, first = collate(items), collate([{"input": item["input"], "label": item["label"]} for item in items])
    second = collate([{"input": item["second"], "label": item["label"]} for item in items])
    assert all(torch.equal(batch[name], torch.cat((first[name], second[name]))) for name in first)
    assert "second" not in transforms(split, {**masks, "consistency": 0.2}, training=False).of_item(split[0])


def test_a_gain_of_stored_features_is_refused(stored):
    split = PreparedSplit(stored["features"], "train")
    with pytest.raises(
        UserError, match=r"augment.gain_db: needs audio, but .* holds features: set prepare.store to audio"
    ):
        transforms(split, {"gain_db": [-6, 6]}, training=True)
    assert transforms(split, {"gain_db": [-6, 6]}, training=False) == transforms(split, {}, training=True)


def test_samples_of_sixteen_bits_come_back_exactly():
    samples = np.array([-1, -0.5, 0, 3 / 32768, 32767 / 32768, 1.0], np.float32)
    assert np.array_equal(from_int16(torch.from_numpy(to_int16(samples))).numpy(), np.minimum(samples, 32767 / 32768))
