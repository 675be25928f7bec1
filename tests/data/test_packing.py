"""Documents packed into windows: nothing lost, nothing twice, and the same for any number of readers."""

from collections import Counter

import numpy as np
import pytest
import torch

from lt25.data.order import Reading, Share
from lt25.data.packing import PackedDocuments
from lt25.errors import UserError

END, T = 0, 8


class Documents:
    """A corpus in memory; each token tells its document and its place there."""

    name, end = "documents", END

    def __init__(self, sizes=(5, 1, 40, 3, 9, 0, 17, 2, 30, 4, 6, 21), chunks=5, offset=0):
        ends = np.cumsum(sizes) + offset
        tokens = [np.append(np.arange(end - size, end) + 1, END) for size, end in zip(sizes, ends, strict=True)]
        self.chunks = [tokens[number::chunks] for number in range(chunks)]
        self.count = chunks

    def __getitem__(self, chunk):
        return self.chunks[chunk]

    def expect(self, chunk): ...

    def close(self): ...


def packed(corpora=None, probabilities=(1.0,), share=None, **options):
    corpora = corpora or [Documents()]
    return PackedDocuments(corpora, probabilities, Reading(share or Share(4), 1, seq_len=T, **options))


def windows(source, share, steps, first=0):
    numbers = [share.step_size * step + row for step in range(first, first + steps) for row in share.rows]
    return {number: source[number] for number in numbers}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("size", "chunks"), [(1, 1), (4, 5), (6, 12), (4, 1)])
def test_every_token_of_an_epoch_is_learnt_once_from_its_own_document(size, chunks):
    share, corpus = Share(size), Documents(chunks=chunks)
    read = windows(packed([corpus], share=share), share, 12)
    learnt = Counter()
    for item in read.values():
        starts = {*item["starts"].tolist()}
        assert 0 in starts and len(item["input"]) == len(item["label"]) == T
        for at, (given, wanted) in enumerate(zip(item["input"].tolist(), item["label"].tolist(), strict=True)):
            # A sequence begins exactly where a document does, or the window.
            assert (given == END) <= (at in starts)
            assert at == 0 or (at in starts) == (given == END)
            if wanted != END and given != END:
                assert wanted == given + 1
            learnt[wanted] += 1
    words = sum(len(document) - 1 for chunk in corpus.chunks for document in chunk)
    counts = [learnt[word] for word in range(1, words + 1)]
    # Lanes are not at the same place, and the last window of each is not full.
    assert sum(learnt.values()) == 12 * size * T
    assert max(counts) - min(counts) <= 2


def test_epochs_and_seeds_differ():
    share = Share(1)
    corpus = Documents(chunks=1)
    read = [item["label"].tolist() for item in windows(packed([corpus], share=share), share, 40).values()]
    assert read[:18] != read[18:36]
    assert len({tuple(window) for window in read}) > 30


@pytest.mark.parametrize("mixed", [False, True])
def test_any_number_of_readers_reads_the_same_and_goes_on_from_the_others_state(mixed):
    several = [Documents(), Documents(sizes=(7, 3, 50), chunks=2, offset=1000)]
    corpora, probabilities = (several, (0.7, 0.3)) if mixed else (several[:1], (1.0,))
    whole = windows(packed(corpora, probabilities, Share(12)), Share(12), 30)
    split = [Share(3, accumulation=2, rank=rank, world_size=2) for rank in range(2)]
    readers = [packed(corpora, probabilities, share) for share in split]
    for reader, share in zip(readers, split, strict=True):
        assert all(same(item, whole[number]) for number, item in windows(reader, share, 13).items())
    states = [reader.state_dict() for reader in readers]
    assert states[0]["step"] == 12 and states[0]["before"] == states[1]["before"]
    state = {**states[0], "lanes": {**states[0]["lanes"], **states[1]["lanes"]}}
    for share in [Share(2, accumulation=2, rank=rank, world_size=3) for rank in range(3)]:
        resumed = packed(corpora, probabilities, share)
        resumed.load_state_dict(state)
        assert all(same(item, whole[number]) for number, item in windows(resumed, share, 17, first=13).items())
    if mixed:
        parts = [item["label"].max().item() > 1000 for item in whole.values()]
        assert 0.2 < np.mean(parts) < 0.4


def test_a_state_that_lacks_a_lane_or_is_of_another_batch_is_refused():
    source = packed()
    windows(source, Share(4), 2)
    state = source.state_dict()
    with pytest.raises(UserError, match="has no position of lane 0-3"):
        packed().load_state_dict({**state, "lanes": {name: state["lanes"][name] for name in ("0-0", "0-1", "0-2")}})
    with pytest.raises(UserError, match="position is in other data"):
        packed(share=Share(2)).load_state_dict(state)


def test_sequences_are_cut_at_documents_and_context_len_or_not_kept_apart():
    for length in (3, 0):
        for item in windows(packed(context_len=length), Share(4), 6).values():
            bounds = [*item["starts"].tolist(), T]
            assert bounds[0] == 0 and min(np.diff(bounds)) >= 1 and max(np.diff(bounds)) <= (length or T)
            assert {*(item["input"] == END).nonzero().flatten().tolist()} <= {*bounds}
    assert all(item["starts"].tolist() == [0] for item in windows(packed(varlen=False), Share(4), 6).values())


def test_a_corpus_without_text_is_an_error_and_not_a_search_without_end():
    corpus = Documents(sizes=(), chunks=3)
    with pytest.raises(UserError, match="documents: there is no text to train on"):
        packed([corpus])[0]


def test_windows_of_a_document_come_in_random_order():
    read = windows(packed([Documents(sizes=(800,), chunks=1)], share=Share(1)), Share(1), 100)
    first = [int(item["label"][0]) for item in read.values()]
    assert sorted(first) == list(range(1, 801, T)) and first != sorted(first)


def test_text_that_lies_in_one_chunk_of_many_is_found_by_every_lane():
    corpus, share = Documents(sizes=(200,), chunks=7), Share(6)
    read = windows(packed([corpus], share=share), share, 30)
    assert len(read) == 180 and all((item["label"] != END).any() for item in read.values())


def test_which_dataset_a_window_is_of_is_drawn_in_every_step_by_the_probabilities():
    share, steps = Share(8), 100
    read = windows(packed([Documents(), Documents(offset=1000)], (0.75, 0.25), share), share, steps)
    second = torch.tensor([int(read[number]["label"].max() > 1000) for number in range(8 * steps)]).view(steps, 8)
    assert abs(second.float().mean() - 0.25) < 0.05
    assert len(second.unique(dim=0)) > 10
