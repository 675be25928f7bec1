import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from tests.data import make


def images(root, labels=("cat", "dog"), shape=(4, 5)):
    rng = np.random.default_rng(3)
    for split, count in (("train", 40), ("test", 8)):
        rows = [
            {"image": {"bytes": make.random_png(rng, shape), "path": None}, "label": labels[n % 2]}
            for n in range(count)
        ]
        make.parquet(root / f"{split}.parquet", rows)
    return make.dataset("classification", {"path": str(root)}, splits={"train": "train", "test": "test"})


def stats(folder):
    return json.loads((folder / "stats.json").read_text())


def everything(folder, name="inputs"):
    return torch.cat([PreparedSplit(folder, split).shards[name] for split in ("train", "validation")]).float()


@pytest.mark.parametrize(
    ("layout", "shape", "steps", "channels"),
    [("pixels", (4, 5), 20, 1), ("rows", (4, 5), 4, 5), ("pixels", (4, 5, 3), 20, 3), ("rows", (4, 5, 3), 4, 15)],
)
def test_an_image_becomes_a_series_of_pixels_or_rows(tmp_path, layout, shape, steps, channels):
    data = images(tmp_path / "raw", shape=shape)
    folder = make.prepared(tmp_path, "classification", data, layout=layout)
    train = PreparedSplit(folder, "train")
    assert train[0]["input"].shape == (steps, channels) and train[0]["input"].dtype == torch.float16
    assert train[0]["label"].shape == () and train[0]["label"].dtype == torch.int64
    assert set(train.lengths) == {steps}
    assert stats(folder)["model"]["input_size"] == channels
    assert everything(folder).mean().abs() < 0.1 and (everything(folder).std() - 1).abs() < 0.1


def test_pixels_keep_their_order_and_level(tmp_path):
    data = images(tmp_path / "raw")
    folder = make.prepared(tmp_path, "classification", data, layout="rows")
    test = PreparedSplit(folder, "test")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    from lt25.data.images import decode_image

    for number, row in test.table().iterrows():
        levels = (test[number]["input"].float() * config["std"][0] + config["mean"][0]) * 255
        assert torch.allclose(levels, torch.tensor(decode_image(row.image)[:, :, 0]).float(), atol=0.3)


def test_stats_tables_and_labels_agree(tmp_path):
    folder = make.prepared(tmp_path, "classification", images(tmp_path / "raw"))
    facts = stats(folder)
    assert facts["model"]["id2label"] == {"0": "cat", "1": "dog"} and facts["model"]["label2id"] == {"cat": 0, "dog": 1}
    for split in ("train", "validation", "test"):
        prepared = PreparedSplit(folder, split)
        table = prepared.table()
        assert facts["splits"][split]["examples"] == len(prepared) == len(table) > 0
        assert [facts["model"]["label2id"][name] for name in table.label] == prepared.shards["labels"].tolist()
        assert facts["splits"][split]["labels"] == table.label.value_counts().to_dict()
        assert sum(facts["splits"][split]["lengths"]["counts"]) == len(prepared)
        assert ("image" in table) == (split == "test")
    assert facts["splits"]["train"]["examples"] + facts["splits"]["validation"]["examples"] == 40


def test_numbers_as_labels_take_the_names_given(tmp_path):
    data = images(tmp_path / "raw", labels=(0, 2))
    assert stats(make.prepared(tmp_path / "a", "classification", data))["model"]["id2label"] == {"0": "0", "1": "2"}
    named = make.dataset("classification", data.origin, splits=data.splits, labels=["a", "b", "c"])
    assert stats(make.prepared(tmp_path / "b", "classification", named))["model"]["id2label"]["2"] == "c"


def test_the_same_files_give_the_same_bytes(tmp_path):
    data = images(tmp_path / "raw")
    folders = [make.prepared(tmp_path / name, "classification", data) for name in ("a", "b")]
    names = {path.name for path in folders[0].iterdir()}
    assert names == {path.name for path in folders[1].iterdir()}
    assert names == {
        *(f"{split}.parquet" for split in ("train", "validation", "test")),
        *(f"{split}-00000-of-00001.safetensors" for split in ("train", "validation", "test")),
        "preprocessor_config.json",
        "stats.json",
    }
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_class_folders_by_path(tmp_path):
    make.image_folder(tmp_path / "mine")
    folder = make.prepared(tmp_path, "classification", make.dataset("classification", {"path": "mine"}))
    table = PreparedSplit(folder, "train").table()
    assert all(path.split("/")[0] == label for path, label in zip(table.path, table.label, strict=True))


def test_series_of_numbers_from_json_lines(tmp_path):
    rng = np.random.default_rng(4)
    series = [
        {"image": (5 + 2 * rng.standard_normal((3 + n % 4, 2))).tolist(), "label": ("up", "down")[n % 2]}
        for n in range(30)
    ]
    make.write(tmp_path / "mine/all.jsonl", "\n".join(map(json.dumps, series)))
    folder = make.prepared(
        tmp_path, "classification", make.dataset("classification", {"path": "mine"}), layout="series"
    )
    train = PreparedSplit(folder, "train")
    assert train[0]["input"].dtype == torch.float32 and set(train.lengths) == {3, 4, 5, 6}
    assert train.shards["inputs"].mean().abs() < 1e-5


@pytest.mark.parametrize(("size", "seen"), [(None, [4, 5]), ([6, 3], [6, 3])])
def test_images_of_several_sizes_are_brought_to_one(tmp_path, capsys, size, seen):
    make.image_folder(tmp_path / "mine")
    make.image_folder(tmp_path / "mine/large", count=3, shape=(9, 9))
    data = make.dataset("classification", {"path": "mine"})
    folder = make.prepared(tmp_path, "classification", data, layout="rows", size=size)
    assert PreparedSplit(folder, "train")[0]["input"].shape == tuple(seen)
    said = "tiny: images of 4 by 5 to 9 by 9 pixels are brought to 4 by 5; prepare.size sets another"
    assert (said in capsys.readouterr().err) == (size is None)


def test_photographs_are_made_small_without_being_asked(tmp_path, capsys):
    make.image_folder(tmp_path / "mine", count=6, shape=(300, 400, 3))
    folder = make.prepared(tmp_path, "classification", make.dataset("classification", {"path": "mine"}), layout="rows")
    assert stats(folder)["model"]["input_size"] == 32 * 3 and PreparedSplit(folder, "train").lengths[0] == 24
    assert "images of 300 by 400 pixels are brought to 24 by 32" in capsys.readouterr().err


def test_a_corrupt_image_is_named_and_nothing_is_left(tmp_path):
    make.image_folder(tmp_path / "mine")
    bad = tmp_path / "mine/dog/3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    data = make.dataset("classification", {"path": "mine"})
    with pytest.raises(
        UserError, match=r"dog/3.png: no readable image .*: mend or remove it, or set prepare.faulty to exclude"
    ):
        make.prepared(tmp_path, "classification", data, faulty="stop")
    assert not list((tmp_path / "data/processed/tiny").iterdir())


def test_a_label_that_train_does_not_have_is_named(tmp_path):
    data = images(tmp_path / "raw")
    rng = np.random.default_rng(5)
    make.parquet(
        tmp_path / "raw/test.parquet", [{"image": {"bytes": make.random_png(rng), "path": ""}, "label": "cow"}]
    )
    with pytest.raises(
        UserError, match=r"test.parquet, row 0: the label 'cow' is none of the training split's: cat, dog"
    ):
        make.prepared(tmp_path, "classification", data, faulty="stop")


def test_labels_beyond_the_names_given(tmp_path):
    data = images(tmp_path / "raw", labels=(0, 7))
    data.options["labels"] = ["a", "b", "c"]
    with pytest.raises(UserError, match=r"labels: the training split has 2 labels, 0 to 7, and 3 names are given"):
        make.prepared(tmp_path, "classification", data)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1000, 25000, 60000], ["1000", "25000", "60000"]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([-1, 1], ["-1", "1"]),
        ([10**8, 10**30], [str(10**8), str(10**30)]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["2.5", "10"], ["2.5", "10"]),
        ([1.0, 2.0], ["1", "2"]),
        ([True, False], ["False", "True"]),
        ([" b", "a ", "a"], ["a", "b"]),
        (["10", "9", "x"], ["10", "9", "x"]),
    ],
)
def test_labels_are_classes_in_the_order_of_their_values(tmp_path, labels, names):
    rows = [{"values": [n, n % 7], "kind": labels[n % len(labels)]} for n in range(60)]
    make.write(tmp_path / "mine/all.jsonl", "\n".join(map(json.dumps, rows)))
    data = make.dataset("classification", {"path": "mine"}, {"input": "values", "label": "kind"})
    model = stats(make.prepared(tmp_path, "classification", data))["model"]
    assert [model["id2label"][str(n)] for n in range(model["num_labels"])] == names


@pytest.mark.parametrize(
    ("labels", "second"),
    [(["0", "1", "2"], "2"), ([0, 1, 2], "2"), ([1, 2, 3], "3"), (["-1", "0", "1"], "1"), (["a", "c"], "c")],
)
def test_names_are_given_to_labels_of_any_kind(tmp_path, labels, second):
    rows = [{"values": [n, n % 7], "kind": labels[n % len(labels)]} for n in range(60)]
    make.write(tmp_path / "mine/all.jsonl", "\n".join(map(json.dumps, rows)))
    data = make.dataset(
        "classification", {"path": "mine"}, {"input": "values", "label": "kind"}, labels=["a", "b", "c"]
    )
    folder = make.prepared(tmp_path, "classification", data)
    assert stats(folder)["model"]["num_labels"] == 3
    train = PreparedSplit(folder, "train")
    numbers = dict(zip(train.table().label, train.shards["labels"].tolist(), strict=True))
    assert numbers["c"] == 2 and second in map(str, labels)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            lambda n: n,
            "columns.label: 10,0.. different labels in train, at most 10,000 are classes: name another column",
        ),
        (lambda n: "größer", 'columns.label: all of the training split has the label "größer": two classes are needed'),
        (
            lambda n: ("a", "b", 1)[n % 3],
            r"\d+ x an unusable label; the first: train.jsonl, line \d+: the label 1 is none of the training split's: a, b",
        ),
    ],
)
def test_labels_that_are_no_classes_are_one_line(tmp_path, kind, message):
    rows = [{"values": [n], "kind": kind(n), "half": n % 2} for n in range(10_050)]
    make.write(tmp_path / "mine/train.jsonl", "\n".join(map(json.dumps, rows)))
    splits = {"train": "train", "validation": "train", "test": "train"}
    data = make.dataset("classification", {"path": "mine"}, {"input": "values", "label": "kind"}, splits)
    with pytest.raises(UserError, match=message):
        make.prepared(tmp_path, "classification", data)


def test_where_one_class_is_left_what_was_left_out_is_said(tmp_path):
    rows = [{"values": [n, None if n % 2 else n], "kind": n % 2} for n in range(30)]
    make.write(tmp_path / "mine/all.jsonl", "\n".join(map(json.dumps, rows)))
    data = make.dataset("classification", {"path": "mine"}, {"input": "values", "label": "kind"})
    with pytest.raises(UserError, match=r"has the label 0: .*the first that was left out: all.jsonl, line \d+: "):
        make.prepared(tmp_path, "classification", data)


def test_an_image_much_brighter_than_train_stays_finite(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "mine" / ("test" if number < 4 else "train") / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.random((3, 3), np.float32) * (1e9 if number < 4 else 1)).save(path)
    splits = {"train": "train", "validation": "train", "test": "test"}
    data = make.dataset("classification", {"path": "mine"}, {"input": "image", "label": "label"}, splits)
    folder = make.prepared(tmp_path, "classification", data)
    assert PreparedSplit(folder, "test").shards["inputs"].isfinite().all()


def test_series_of_a_large_offset_keep_their_information(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"values": (1.7e9 + 1e-3 * rng.standard_normal(50)).tolist(), "kind": n % 2} for n in range(30)]
    make.write(tmp_path / "mine/all.jsonl", "\n".join(map(json.dumps, rows)))
    data = make.dataset("classification", {"path": "mine"}, {"input": "values", "label": "kind"})
    folder = make.prepared(tmp_path, "classification", data)
    train = PreparedSplit(folder, "train").shards["inputs"]
    assert abs(float(train.std()) - 1) < 0.05 and len(train.unique()) > 500
    from lt25.data.features import SeriesFeatureExtractor

    extractor = SeriesFeatureExtractor.from_pretrained(folder)
    seen = {tuple(extractor(np.array(row["values"]))["input_features"][0][:, 0].tolist()) for row in rows}
    assert tuple(train[:50, 0].tolist()) in seen


def test_arrays_in_folders_of_classes(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "mine" / ("up", "down")[number % 2] / f"{number}.{('npy', 'npz')[number // 2 % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        series = rng.normal(size=(6 + number % 3, 2)).astype(np.float32)
        np.save(path, series) if path.suffix == ".npy" else np.savez(path, series)
    data = make.dataset("classification", {"path": "mine"}, {"input": "series", "label": "label"})
    folder = make.prepared(tmp_path, "classification", data)
    assert stats(folder)["model"]["id2label"] == {"0": "down", "1": "up"}
    train = PreparedSplit(folder, "train")
    assert stats(folder)["model"]["input_size"] == 2 and set(train.lengths) == {6, 7, 8}

    from lt25.data.classification import collate, transforms

    batch = collate([train[0], train[1]])
    noisy = transforms(train, {"noise": 0.1}, training=True).of_batch(batch, 0, 0, 0)["input_features"]
    assert 0.03 < (noisy - batch["input_features"]).std() < 0.3
    with pytest.raises(UserError, match=r"augment\.rotate: is for images, and the inputs are none: remove the key"):
        transforms(train, {"rotate": 5.0}, training=True)


@pytest.mark.parametrize("given", ["folders", "table", "parquet"])
def test_recordings_are_classified(tmp_path, given):
    rng, root = np.random.default_rng(0), tmp_path / "mine"
    columns = {"folders": ("audio", "label"), "table": ("file", "what"), "parquet": ("audio", "label")}[given]
    sounds = [(make.audio(rng, 0.2, container="WAV"), ("bark", "meow")[n % 2]) for n in range(30)]
    if given == "parquet":
        make.parquet(root / "all.parquet", [{"audio": {"bytes": s, "path": None}, "label": kind} for s, kind in sounds])
    else:
        for number, (sound, kind) in enumerate(sounds):
            make.write(root / (kind if given == "folders" else "sounds") / f"{number}.wav", sound)
        lines = [f"sounds/{number}.wav,{kind}" for number, (_, kind) in enumerate(sounds)]
        if given == "table":
            make.write(root / "all.csv", "\n".join(["file,what", *lines]))
    data = make.dataset("classification", {"path": "mine"}, dict(zip(("input", "label"), columns, strict=True)))
    folder = make.prepared(tmp_path, "classification", data)
    train = PreparedSplit(folder, "train")
    assert train[0]["input"].shape == (20, 40) and train[0]["input"].dtype == torch.float16
    assert everything(folder).mean().abs() < 0.1 and (everything(folder).std() - 1).abs() < 0.1

    from transformers import AutoFeatureExtractor

    import lt25  # noqa: F401
    from lt25.data.audio import decode_audio

    test = PreparedSplit(folder, "test")
    samples = decode_audio(test.table().audio[0], 16000)
    features = AutoFeatureExtractor.from_pretrained(folder)(samples, return_tensors="pt").input_features[0]
    torch.testing.assert_close(features.half(), test[0]["input"], rtol=1e-2, atol=1e-2)


def test_recordings_as_their_samples_are_equally_loud_and_played_faster_or_slower(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(30):
        sound = make.audio(rng, 0.1, container="WAV", rate=8000)
        make.write(tmp_path / "mine" / ("bark", "meow")[number % 2] / f"{number}.wav", sound)
    data = make.dataset("classification", {"path": "mine"}, {"input": "audio", "label": "label"})
    folder = make.prepared(tmp_path, "classification", data, n_mels=0, sample_rate=8000)
    train = PreparedSplit(folder, "train")
    assert train[0]["input"].shape == (800, 1) and stats(folder)["model"]["input_size"] == 1
    assert abs(train[0]["input"].float().square().mean() - 1) < 0.01

    from transformers import AutoFeatureExtractor

    import lt25  # noqa: F401
    from lt25.data.audio import decode_audio
    from lt25.data.classification import collate, transforms

    test = PreparedSplit(folder, "test")
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    features = extractor(decode_audio(test.table().audio[0], 8000), return_tensors="pt").input_features[0]
    torch.testing.assert_close(features.half(), test[0]["input"], rtol=1e-2, atol=1e-2)
    augment = {"speed": [1.25], "equalise_db": None, "noise": 0.0, "mixup": 0.0}
    faster = transforms(train, augment, training=True).of_batch(collate([train[0]]), 0, 0, 0)
    assert faster["attention_mask"].sum() == 640
    with pytest.raises(UserError, match=r"augment\.shift: is for images or series"):
        transforms(train, {"shift": 1.0}, training=True)


def test_series_with_gaps_and_uneven_times_are_the_same_of_a_table_arrays_and_parquet(tmp_path):
    """The example of docs/data.md."""
    from lt25.data.classification import collate, transforms

    rng, patients = np.random.default_rng(0), {}
    for number in range(24):
        minutes = np.round(rng.uniform(0.1, 5, rng.integers(2, 9)).cumsum(), 2)
        values = np.round(rng.normal([70 + 30 * (number % 2), 120], 5, (len(minutes), 2)), 1)
        values[rng.random(values.shape) < 0.3] = np.nan
        patients[f"p{number}"] = (("well", "ill")[number % 2], np.column_stack((minutes, values)))
    lines, rows = ["patient,minute,pulse,pressure,outcome"], []
    for name, (outcome, series) in patients.items():
        written = [",".join("" if np.isnan(value) else str(value) for value in step) for step in series]
        lines += [f"{name},{step},{outcome}" for step in reversed(written)]
        rows.append({"series": [[None if np.isnan(v) else v for v in step] for step in series], "outcome": outcome})
        buffer = io.BytesIO()
        np.save(buffer, series)
        make.write(tmp_path / "arrays" / outcome / f"{name}.npy", buffer.getvalue())
    make.write(tmp_path / "table/ward.csv", "\n".join(lines))
    make.parquet(tmp_path / "parquet/ward.parquet", rows)
    channels = ["minute", "pulse", "pressure"]
    columns = {
        "table": {"input": channels, "label": "outcome", "id": "patient", "time": "minute"},
        "arrays": {"input": "series", "label": "label"},
        "parquet": {"input": "series", "label": "outcome"},
    }
    found = {}
    for kind, roles in columns.items():
        data = make.dataset("classification", {"path": str(tmp_path / kind)}, roles, missing="carry")
        folder = make.prepared(tmp_path, "classification", data)
        assert stats(folder)["model"]["input_size"] == 6
        splits = [PreparedSplit(folder, split) for split in ("train", "validation", "test")]
        # Each form holds out others, so what was measured is compared by when, and where it was.
        found[kind] = sorted(len(split[i]["input"]) for split in splits for i in range(len(split)))
        flags = torch.cat([split[i]["input"] for split in splits for i in range(len(split))])[:, 3:]
        assert flags[:, 0].all() and flags.sum() == sum(np.isfinite(series).sum() for _, series in patients.values())
        train = splits[0]
        augmented = transforms(train, {"noise": 0.5}, training=True).of_batch(collate([train[0]]), 0, 0, 0)
        assert augmented["input_features"][0, :, 3:].tolist() == train[0]["input"][:, 3:].tolist()
    assert found["table"] == found["arrays"] == found["parquet"] == sorted(len(s) for _, s in patients.values())

    from lt25.data.features import SeriesFeatureExtractor

    series = np.array([[0, np.nan, 5], [1, 2, np.nan], [3, np.nan, np.nan]])
    extractor = SeriesFeatureExtractor(6, layout="series", mean=[0, 0, 1], std=[1, 2, 2], missing=True)
    expected = [[0, 0, 2, 1, 0, 1], [1, 1, 2, 1, 1, 0], [3, 1, 2, 1, 0, 0]]
    assert extractor(series, return_tensors="pt").input_features[0].tolist() == expected


def test_images_in_colour_become_grey(tmp_path):
    folder = make.prepared(tmp_path, "classification", images(tmp_path / "raw", shape=(4, 5, 3)), grey=True)
    assert PreparedSplit(folder, "train")[0]["input"].shape == (20, 1) and stats(folder)["model"]["input_size"] == 1


def test_images_of_sixteen_bits_keep_their_levels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(1000 * (number % 2), 1000 * (number % 2) + 3000, (4, 4)).astype(np.uint16)
        make.write(tmp_path / f"mine/{('dark', 'light')[number % 2]}/{number}.png", make.png(pixels))
    folder = make.prepared(tmp_path, "classification", make.dataset("classification", {"path": "mine"}))
    assert len(everything(folder).unique()) > 300
    from lt25.data.features import SeriesFeatureExtractor

    test, extractor = PreparedSplit(folder, "test"), SeriesFeatureExtractor.from_pretrained(folder)
    image = Image.open(tmp_path / "mine" / test.table().path[0])
    assert np.allclose(extractor(image)["input_features"][0], test[0]["input"], atol=1e-2)


def test_images_of_several_depths_in_one_folder_each_have_a_range(tmp_path):
    rng, splits = np.random.default_rng(0), {"train": "all", "validation": "all", "test": "all"}
    depths = {"8": (255, np.uint8), "16": (65535, np.uint16), "32": (1 << 30, np.int32), "floats": (1, np.float32)}
    for number in range(24):
        depth, (largest, kind) = list(depths.items())[number % 4]
        image, file = Image.fromarray((largest * rng.random((8, 8))).astype(kind)), io.BytesIO()
        image.save(file, "TIFF")
        make.write(tmp_path / f"mine/{('cat', 'dog')[number // 4 % 2]}/{depth}-{number}.tif", file.getvalue())
    folder = make.prepared(tmp_path, "classification", make.dataset("classification", {"path": "mine"}, splits=splits))
    test = PreparedSplit(folder, "test")
    deviations = [float(test[row]["input"].float().std()) for row in range(len(test))]
    assert min(deviations) > 0.8 and max(deviations) < 1.2
    ranges = json.loads((folder / "preprocessor_config.json").read_text())["ranges"]
    assert set(ranges) == {"16 bits", "32 bits", "floats"} and ranges["floats"][1] <= 1


def test_transparency_is_said_and_colour_anywhere_makes_all_colour(tmp_path, capsys):
    make.image_folder(tmp_path / "mine")
    make.write(tmp_path / "mine/dog/x.png", make.png(np.full((4, 5, 4), 9, np.uint8)))
    splits = {"train": "all", "validation": "all", "test": "all"}
    data = make.dataset("classification", {"path": "mine"}, splits=splits)
    assert stats(make.prepared(tmp_path, "classification", data))["model"]["input_size"] == 3
    assert "tiny: 1 images with transparency are laid on white" in capsys.readouterr().err


def test_the_same_content_in_two_splits_is_said(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pictures = [make.random_png(rng) for _ in range(20)]
    for number, picture in enumerate(pictures):
        make.write(tmp_path / f"mine/train/{('cat', 'dog')[number % 2]}/{number}.png", picture)
        make.write(tmp_path / f"mine/val/{('cat', 'dog')[number % 2]}/{number}.png", make.random_png(rng))
        again = pictures[number] if number < 3 else make.random_png(rng)
        make.write(tmp_path / f"mine/test/{('cat', 'dog')[number % 2]}/copy{number}.png", again)
    data = make.dataset(
        "classification", {"path": "mine"}, splits={"train": "train", "validation": "val", "test": "test"}
    )
    assert stats(make.prepared(tmp_path, "classification", data))["shared"] == {"test": 3}
    said = capsys.readouterr().err
    assert (
        "tiny: 3 examples of test have the same content as some of train or validation, the first test/cat/copy0.png"
        in said
    )


def test_an_empty_split_is_named(tmp_path):
    data = images(tmp_path / "raw")
    tiny = make.dataset(
        "classification", data.origin, splits={**data.splits, "validation": {"from": "train", "fraction": 1e-9}}
    )
    with pytest.raises(UserError, match=r"config/datasets/tiny.yaml: splits.validation: no examples"):
        make.prepared(tmp_path, "classification", tiny)


def test_layout_and_input_must_agree(tmp_path):
    data = images(tmp_path / "raw")
    with pytest.raises(UserError, match=r"found series, and the inputs are images: use pixels or rows"):
        make.prepared(tmp_path, "classification", data, layout="series")
    with pytest.raises(UserError, match=r"prepare.n_mels: has no effect on images"):
        make.prepared(tmp_path, "classification", data, n_mels=80)
