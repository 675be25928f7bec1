import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from lt25.data.prepared import PreparedSplit
from lt25.data.shards import SplitWriter, shard_path
from lt25.errors import UserError


def write(folder, dtype=np.float16, labels=True):
    rng = np.random.default_rng(0)
    examples = [
        (rng.standard_normal((length, 3)).astype(dtype), rng.integers(1, 9, length % 4).astype(np.int32))
        for length in (5, 1, 8, 3)
    ]
    writer = SplitWriter(folder, "train")
    for number, (inputs, label) in enumerate(examples):
        writer.add({"id": str(number), "text": "x" * number}, inputs, label if labels else None)
    writer.close()
    return examples


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
def test_what_is_written_is_read_back(tmp_path, dtype):
    examples, split = write(tmp_path, dtype), None
    split = PreparedSplit(tmp_path, "train")
    assert len(split) == 4 and split.lengths.tolist() == [5, 1, 8, 3] and split.lengths.dtype == np.int64
    for number, (inputs, labels) in enumerate(examples):
        assert np.array_equal(split[number]["input"].numpy(), inputs)
        assert np.array_equal(split[number]["label"].numpy(), labels)
    assert split.table().text.tolist() == ["", "x", "xx", "xxx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-00000-of-00001.safetensors", "train.parquet"]


def test_a_table_in_several_groups_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("lt25.data.shards._ROWS", 10)
    monkeypatch.setattr("lt25.data.shards._HEAVY", 40)
    writer = SplitWriter(tmp_path, "test")
    for number in range(35):
        writer.add({"id": number, "audio": bytes([number]) * (30 if number == 5 else 1)}, np.zeros((1, 1), np.float32))
    writer.close()
    table = PreparedSplit(tmp_path, "test").table()
    assert table.id.tolist() == list(range(35)) and [data[0] for data in table.audio] == list(range(35))


def test_the_file_is_safetensors_as_others_read_it(tmp_path):
    examples = write(tmp_path)
    tensors = load_file(shard_path(tmp_path, "train"))
    assert np.array_equal(tensors["inputs"], np.concatenate([inputs for inputs, _ in examples]))
    assert tensors["label_offsets"].tolist() == [0, 1, 2, 2, 5]


def test_labels_that_are_numbers_and_no_labels(tmp_path):
    writer = SplitWriter(tmp_path, "test")
    writer.add({"id": "a"}, np.zeros((2, 1), np.float32), 3)
    writer.close()
    assert PreparedSplit(tmp_path, "test")[0]["label"] == 3
    write(tmp_path, labels=False)
    assert set(PreparedSplit(tmp_path, "train")[0]) == {"input"}


def test_items_are_views_of_the_memory_map(tmp_path):
    write(tmp_path)
    split = PreparedSplit(tmp_path, "train")
    assert split[2]["input"].untyped_storage().data_ptr() == split.shards["inputs"].untyped_storage().data_ptr()


def test_a_reader_in_another_process_maps_the_file_itself(tmp_path):
    write(tmp_path)
    sent = pickle.dumps(PreparedSplit(tmp_path, "train"))
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)[0]["input"], PreparedSplit(tmp_path, "train")[0]["input"])


def test_an_index_beyond_the_end(tmp_path):
    write(tmp_path)
    with pytest.raises(IndexError):
        PreparedSplit(tmp_path, "train")[4]


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no such prepared split: run `lt25 prepare`"):
        PreparedSplit(tmp_path, "dev")
