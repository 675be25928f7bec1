"""transformers' Auto classes and pipelines know the models once lt25 is imported."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForCTC, AutoModelForSequenceClassification, pipeline

import lt25
from lt25.models import HGRNModel
from lt25.models.auto import make_model
from tests.models import tiny

ORDERS = [
    "import lt25",
    "import transformers.pipelines, lt25",
    "import lt25, transformers.modeling_layers",
    "import lt25.models.causal_lm",
    "import lt25.data.features",
    "import lt25.models.families",
    "import sys; sys.argv[0] = '/usr/bin/lt25'; import lt25; lt25.register()",
    "import sys; sys.argv[0] = '/usr/bin/lt25'; import lt25.models.auto, lt25.data.features as f; f.register()",
]

# What transformers builds on is imported once and the processes forked from there: it takes most of the time.
IN_EVERY_ORDER = """
import os, sys
import numba, regex, sklearn, soundfile, tokenizers, torchaudio
import huggingface_hub.hf_api, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor
failed = []
for order in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        exec(order)
        from transformers import AutoConfig, AutoModelForCTC
        from transformers.models.auto.feature_extraction_auto import feature_extractor_class_from_name
        config = AutoConfig.for_model("lt25_hgrn", hidden_size=8, num_hidden_layers=1, input_size=4, vocab_size=5)
        assert type(AutoModelForCTC.from_config(config)).__name__ == "HGRNForCTC"
        assert feature_extractor_class_from_name("LogMelFeatureExtractor").__name__ == "LogMelFeatureExtractor"
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(order)
        break
print(failed)
"""


def test_registered_whatever_is_imported_first():
    result = subprocess.run([sys.executable, "-c", IN_EVERY_ORDER, *ORDERS], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_registering_twice_changes_nothing():
    lt25.register()
    lt25.register()


@pytest.mark.parametrize("model_type", ["llama", "lt25_hgrn"])
def test_a_model_is_trained_in_the_dtype_of_training_not_of_the_config_that_it_starts_from(model_type):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 5}
    heads = {"num_attention_heads": 2} if model_type == "llama" else {}
    fields = {"model_type": model_type, **sizes, **heads, "dtype": "float16"}
    for dtype in (torch.float32, torch.bfloat16):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = make_model(fields, "language_modeling")
        finally:
            torch.set_default_dtype(before)
        assert {weight.dtype for weight in model.parameters()} == {dtype}


@pytest.mark.parametrize("program", ["lt25", "snakemake", "-m"])
def test_own_commands_import_nothing_heavy(program):
    """Refusals and the DAG do not wait for torch; a module run with `-m` is known by its name."""
    heavy = "[name for name in ('torch', 'transformers', 'numba', 'fla') if name in sys.modules]"
    body = f"import sys, lt25, lt25.cli, lt25.experiment, lt25.tasks, lt25.models.families\nprint({heavy})"
    if program == "-m":
        code = f"import sys; sys.argv = ['-m']; sys.orig_argv = ['python', '-X', 'dev', '-m', 'lt25.training']; {body}"
    else:
        code = f"import sys; sys.argv[0] = '/somewhere/bin/{program}'; {body}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("make", "auto"),
    [
        (tiny.causal_lm, AutoModelForCausalLM),
        (tiny.ctc, AutoModelForCTC),
        (tiny.classifier, AutoModelForSequenceClassification),
    ],
    ids=["lm", "ctc", "classifier"],
)
def test_saved_models_load(make, auto, tmp_path):
    model = make(use_short_conv=True)
    model.save_pretrained(tmp_path)
    again = auto.from_pretrained(tmp_path)
    assert type(again) is type(model) and not again.training
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())
    assert type(AutoModel.from_pretrained(tmp_path)) is HGRNModel


def test_text_generation_pipeline(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(50)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w49")
    fast.padding_side = "left"
    fast.save_pretrained(tmp_path)
    model = tiny.causal_lm(pad_token_id=0, eos_token_id=49)
    model.save_pretrained(tmp_path)

    prompt = "w3 w4 w5"
    options = {"max_new_tokens": 5, "do_sample": False}
    found = pipeline("text-generation", str(tmp_path))(prompt, **options)[0]["generated_text"]
    ids = model.generate(fast(prompt, return_tensors="pt")["input_ids"], **options)
    assert found.replace(" ", "") == fast.decode(ids[0], skip_special_tokens=True).replace(" ", "")
    assert found.startswith(prompt)


@pytest.fixture
def recogniser(tmp_path):
    """A folder with a CTC model, its tokenizer and its feature extractor."""
    import json

    from transformers import Wav2Vec2CTCTokenizer

    from lt25.data.features import LogMelFeatureExtractor

    extractor = LogMelFeatureExtractor()
    model = tiny.ctc(input_size=extractor.feature_size, subsampling=4, pad_token_id=0, vocab_size=6)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    vocabulary = {"<pad>": 0, "|": 1, "a": 2, "b": 3, "c": 4, "<unk>": 5}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(
        str(tmp_path / "vocab.json"), pad_token="<pad>", unk_token="<unk>", bos_token=None, eos_token=None
    ).save_pretrained(tmp_path)
    return tmp_path


def test_speech_recognition_pipeline(recogniser):
    from transformers import AutoFeatureExtractor, AutoTokenizer

    speech = pipeline("automatic-speech-recognition", str(recogniser))
    assert speech.type == "ctc"
    generator = np.random.default_rng(0)
    utterances = [generator.standard_normal(samples).astype(np.float32) * 0.1 for samples in (16000, 5000)]
    found = [speech(utterance)["text"] for utterance in utterances]

    extractor = AutoFeatureExtractor.from_pretrained(recogniser)
    tokenizer = AutoTokenizer.from_pretrained(recogniser)
    model = AutoModelForCTC.from_pretrained(recogniser)
    batch = extractor(utterances, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = model(batch["input_features"], batch["attention_mask"]).logits.argmax(-1)
    assert found == [tokenizer.decode(row) for row in tokens], "a padded batch decodes otherwise than each alone"
    assert any(found)


def test_long_audio_in_chunks(recogniser):
    speech = pipeline("automatic-speech-recognition", str(recogniser), chunk_length_s=1, stride_length_s=0.2)
    audio = np.random.default_rng(0).standard_normal(16000 * 3).astype(np.float32) * 0.1
    assert speech(audio)["text"]


def test_a_pipeline_reads_files_without_ffmpeg_as_preparation_does(recogniser, tmp_path, monkeypatch):
    import soundfile

    from lt25.data.audio import decode_audio

    monkeypatch.setenv("PATH", "/nowhere")
    speech = pipeline("automatic-speech-recognition", str(recogniser))
    samples = (np.random.default_rng(0).standard_normal((22255, 8)) * 0.1).astype(np.float32)
    path = tmp_path / "speech.flac"
    soundfile.write(path, samples, 11127)
    expected = speech(decode_audio(path.read_bytes(), 16000))["text"]
    assert expected
    assert speech(str(path))["text"] == speech(path)["text"] == speech(path.read_bytes())["text"] == expected
    assert speech([str(path), str(path)], batch_size=2) == 2 * [{"text": expected}]
    mono = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    assert speech({"raw": mono, "sampling_rate": 11127})["text"] == expected
    (tmp_path / "text.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"text.wav: no readable audio"):
        speech(str(tmp_path / "text.wav"))
