"""A language model of a project's own that does as little as transformers asks of one, and its mistakes."""

import json
import re
import sys

import pytest
import torch

from lt25 import plugins
from lt25.checkpoints.export import export
from lt25.errors import UserError
from lt25.evaluation.language_modeling import token_nats
from lt25.exported import exported_model
from lt25.generation.sampling import Sampling
from lt25.generation.writer import Generator
from lt25.models import families
from lt25.models.auto import load_model, make_model
from lt25.training.spec import ModelArgs, TaskModel
from tests import tiny

PACKAGE = """
from lt25.models.families import Family, register
register(Family(
    "own_lstm", "own_lstm", heads={"AutoModelForCausalLM": "head"}, inputs={"AutoModelForCausalLM": "embeddings"},
    layers="layers", module=f"{__name__}.model", lacks={"varlen": "an LSTM takes no boundaries"}, state=False,
))
"""
# Its class is not called ...ForCausalLM, it has no base model, and its config knows neither use_cache nor num_hidden_layers.
MODEL = """
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

class Config(PreTrainedConfig):
    model_type = "own_lstm"
    def __init__(self, vocab_size=11, depth=2, **more):
        self.vocab_size, self.depth = vocab_size, depth
        super().__init__(**more)

class Writer(PreTrainedModel, GenerationMixin):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, 8)
        self.layers = nn.ModuleList(nn.LSTM(8, 8, batch_first=True) for _ in range(config.depth))
        self.head = nn.Linear(8, config.vocab_size)
        self.post_init()
    def forward(self, input_ids=None, **given):
        x = self.embeddings(input_ids)
        for layer in self.layers:
            x = x + layer(x)[0]
        return CausalLMOutput(logits=self.head(x))

AutoConfig.register("own_lstm", Config, exist_ok=True)
AutoModelForCausalLM.register(Config, Writer, exist_ok=True)
"""
FIELDS = {"model_type": "own_lstm", "vocab_size": 11, "eos_token_id": 0}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that loads the plugin, with some of its text changed, in a project that names it."""
    root = tiny.make_project(tmp_path)
    (root / "config" / "config.yaml").write_text("experiments: [tiny]\nplugins: [own/own_lstm]\n")
    monkeypatch.chdir(root)

    def load(old: str = "", new: str = ""):
        folder = root / "own" / "own_lstm"
        folder.mkdir(parents=True)
        assert old in PACKAGE + MODEL
        for name, text in (("__init__", PACKAGE), ("model", MODEL)):
            (folder / f"{name}.py").write_text(text.replace(old, new) if old else text)
        plugins.load(root, ["own/own_lstm"])
        return root

    yield load
    families.FAMILIES.pop("own_lstm", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "own_lstm"]:
        del sys.modules[name]


def test_it_trains_is_exported_measured_and_writes(plugin, monkeypatch):
    root = plugin()
    monkeypatch.setattr(tiny, "MODEL", {})
    training = {"steps": 2, "local_batch_size": 2, "seq_len": 16, "mixed_precision_param": "float32"}
    experiment = tiny.tiny(root, "language_modeling", model={"model_type": "own_lstm"}, training=training)
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    export(experiment)
    folder, _ = exported_model("tiny", "language_modeling")
    model = load_model("language_modeling", folder, torch.device("cpu"))
    text = torch.randint(1, 11, (7,))
    with torch.no_grad():
        read = torch.cat([torch.zeros(1, dtype=torch.long), text[:-1]])[None]
        expected = torch.nn.functional.cross_entropy(model(read).logits[0], text, reduction="none")
    torch.testing.assert_close(torch.tensor(token_nats(model, [text], 0, 1, "test")[0]), expected)
    written = Generator(model, Sampling(max_new_tokens=3, temperature=0))(text[None])
    assert written[0] == model(text[None]).logits[0, -1].argmax()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("x = x + layer(x)[0]", "x = x +", r"own_lstm/model\.py:\d+: SyntaxError: invalid syntax"),
        ("self.post_init()", "self.prost_init()", r"own_lstm/model\.py:\d+: AttributeError: .* 'prost_init'"),
        (
            "AutoConfig.register(",
            "(lambda *_, **__: 0)(",
            r"AutoConfig\.register\('own_lstm', \.\.\.\) in own_lstm\.model",
        ),
        (
            "AutoModelForCausalLM.register(",
            "(lambda *_, **__: 0)(",
            r"AutoModelForCausalLM\.register\(Config, \.\.\.\) in",
        ),
    ],
    ids=["syntax", "attribute", "config", "class"],
)
def test_code_that_makes_no_model_is_one_line(plugin, monkeypatch, old, new, said):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", {})
    plugin(old, new)
    with pytest.raises(UserError, match=said) as caught:
        make_model(FIELDS, "language_modeling")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('module=f"{__name__}.model"', 'module=f"{__name__}.modell"', r"whose module own_lstm\.modell is not there"),
        ("module=", 'config=f"{__name__}.conf", module=', r"own_lstm/conf\.py: cannot be read"),
        ("module=", 'config=f"{__name__}.model", module=', r"own_lstm/model\.py: no class \.\.\.Config"),
    ],
    ids=["no module", "no config module", "no config class"],
)
def test_modules_that_its_family_names_in_vain_are_one_line(plugin, monkeypatch, old, new, said):
    monkeypatch.setattr(sys.modules[__name__], "MODEL", MODEL.replace("Config(", "Settings("))
    plugin(old, new)
    with pytest.raises(UserError, match=said):
        families.find("own_lstm").model_keys()
        make_model(FIELDS, "language_modeling")


def test_an_output_without_names_is_refused(plugin):
    plugin("return CausalLMOutput(logits=self.head(x))", "return (self.head(x),)")
    model = TaskModel(ModelArgs(task="language_modeling", config=json.dumps(FIELDS), seq_len=4))
    with pytest.raises(UserError, match=r"Writer: forward returns a tuple, expected a ModelOutput"):
        model(torch.ones(1, 8, dtype=torch.long))


def test_what_its_forward_raises_is_one_line(plugin):
    plugin("x = self.embeddings(input_ids)", "x = self.embeddings(input_ids)[..., 1:]")
    model = TaskModel(ModelArgs(task="language_modeling", config=json.dumps(FIELDS), seq_len=4))
    with pytest.raises(Exception, match="input_size") as caught:
        model(torch.ones(1, 8, dtype=torch.long))
    assert re.search(
        r"own_lstm/model\.py:\d+: RuntimeError: input.*Expected 8, got 7$", plugins.fault(caught.value) or ""
    )
    assert plugins.fault(ValueError("of lt25's own")) is None


def test_boundaries_that_no_code_of_it_reads_are_refused(plugin):
    """It takes them among arguments that it ignores."""
    plugin('lacks={"varlen": "an LSTM takes no boundaries"}, ', "")
    args = ModelArgs(task="language_modeling", config=json.dumps(FIELDS), seq_len=4)
    with pytest.raises(UserError, match="own_lstm, which is given packed texts and reads no cu_seqlens"):
        TaskModel(args)
    args.packed = False
    assert TaskModel(args).window == 4


def test_a_model_that_cannot_write_is_refused(plugin):
    plugin("(PreTrainedModel, GenerationMixin)", "(PreTrainedModel)")
    with pytest.raises(UserError, match="Writer cannot write: derive it from transformers' GenerationMixin"):
        Generator(make_model(FIELDS, "language_modeling"), Sampling())
