import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lt25.data.units import written


def test_pieces_are_those_of_byte_pair_encoding():
    """The vocabulary alone gives the pieces that the library gives which found them, of words that it never saw too."""
    generator = np.random.default_rng(0)
    # Letters as uneven as those of a language.
    words = ["".join(chr(97 + min(letter, 25)) for letter in generator.geometric(0.15, 7) - 1) for _ in range(400)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = [chr(97 + number) for number in range(26)]
    tokenizer.train_from_iterator(words[:200], trainers.BpeTrainer(vocab_size=120, initial_alphabet=alphabet))
    vocabulary = tokenizer.get_vocab()
    pieces = [written(word, vocabulary) for word in words]
    assert pieces == [tokenizer.encode(word).tokens for word in words]
    assert sum(map(len, pieces)) < 6 * len(words)


def test_words_and_characters():
    assert written("two", {"one": 0, "two": 1}) == ["two"]
    assert written("two", {"t": 0, "w": 1}) == ["t", "w", "o"]
