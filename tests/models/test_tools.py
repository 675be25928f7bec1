"""What other people's tools do to the models: hooks, adapters, quantisation, and transformers' Trainer."""

import copy

import pytest
import torch
from torch import nn

from lt25.models.cache import HGRNCache
from tests.models import tiny

MAKERS = {
    "lm": lambda: tiny.causal_lm(use_short_conv=True),
    "ctc": lambda: tiny.ctc(subsampling=2, bidirectional=True, use_short_conv=True),
    "classifier": lambda: tiny.classifier(bidirectional=True),
    "classifier-no-bound": lambda: tiny.classifier(use_lower_bound=False),
}
EVERY = pytest.mark.parametrize("kind", MAKERS)


def inputs(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "lm":
        mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
        return {"input_ids": torch.randint(0, 50, (2, 9), generator=generator), "attention_mask": mask}
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    channels = 8 if kind == "ctc" else 2
    return {"input_features": torch.randn(2, 9, channels, generator=generator), "attention_mask": mask}


def leaves(model):
    """Modules with weights of their own and none inside."""
    return {
        name: module
        for name, module in model.named_modules()
        if not list(module.children()) and list(module.parameters(recurse=False))
    }


class Counted(nn.Module):
    """A stranger in a module's place."""

    def __init__(self, inner, scale=1.0):
        super().__init__()
        self.inner, self.scale, self.calls = inner, scale, 0

    def forward(self, *arguments, **options):
        self.calls += 1
        return self.inner(*arguments, **options) * self.scale


@EVERY
def test_a_hook_on_every_module_is_called_and_changes_nothing(kind):
    model, given = MAKERS[kind](), inputs(kind)
    expected = model(**given).logits
    called = set()
    for name, module in leaves(model).items():
        module.register_forward_hook(lambda module, arguments, output, name=name: called.add(name))
    found = model(**given).logits
    assert called == set(leaves(model))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("short_conv", [False, True])
def test_a_hook_on_any_module_is_called_in_a_step_too(short_conv):
    """Of generation, which computes a layer's halves and the head without calling what is in them."""
    model = tiny.causal_lm(use_short_conv=short_conv)
    cache = model(torch.tensor([[3, 5]]), use_cache=True).past_key_values.tensors()

    def step():
        restored = HGRNCache(model.config)
        restored.restore(cache)
        return model(torch.tensor([[7]]), past_key_values=restored, use_cache=True).logits

    expected = step()
    for name, module in model.named_modules():
        called = []
        hook = module.register_forward_hook(lambda *_, called=called: called.append(1))
        torch.testing.assert_close(step(), expected, atol=2e-5, rtol=2e-5)
        hook.remove()
        assert called or isinstance(module, nn.ModuleList), name


def test_a_hook_on_all_modules_sees_every_module():
    """As profilers and counters of operations set it."""
    model, called = MAKERS["lm"](), set()
    hook = nn.modules.module.register_module_forward_hook(lambda module, arguments, output: called.add(id(module)))
    with hook:
        model(**inputs("lm"))
    assert {id(module) for module in leaves(model).values()} <= called


@EVERY
def test_gradients_are_those_of_the_fused_operators(kind):
    model = MAKERS[kind]().double()
    given = {name: tensor.double() if name == "input_features" else tensor for name, tensor in inputs(kind).items()}
    hooked = copy.deepcopy(model)
    for module in leaves(hooked).values():
        module.register_forward_pre_hook(lambda module, arguments: None)
    for one in (model, hooked):
        one(**given).logits.square().sum().backward()
    for (name, parameter), other in zip(model.named_parameters(), hooked.parameters(), strict=True):
        torch.testing.assert_close(
            other.grad, parameter.grad, atol=1e-9, rtol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


@EVERY
def test_every_module_can_be_replaced(kind):
    """One by one, each by twice what it computes: the output is another."""
    given = inputs(kind)
    expected = MAKERS[kind]()(**given).logits
    for name, module in leaves(MAKERS[kind]()).items():
        if isinstance(module, nn.Embedding):
            continue
        model = MAKERS[kind]()
        parent, _, own = name.rpartition(".")
        stranger = Counted(model.get_submodule(name), 2.0)
        setattr(model.get_submodule(parent), own, stranger)
        found = model(**given).logits
        assert stranger.calls == 1, name
        assert not torch.allclose(found, expected, atol=1e-6), name


@torch.no_grad()
def test_generation_with_replaced_modules_is_that_of_the_plain_model():
    model = tiny.causal_lm(use_short_conv=True)
    prompt = torch.randint(0, 50, (2, 5))
    expected = model.generate(prompt, max_new_tokens=6, do_sample=False)
    for name, module in leaves(model).items():
        if not isinstance(module, nn.Embedding):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Counted(module))
    assert torch.equal(model.generate(prompt, max_new_tokens=6, do_sample=False), expected)


class Adapter(nn.Module):
    """What peft's LoRA puts in a linear map's place: the map, which does not learn, and a product of two thin ones."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


@EVERY
def test_adapters_learn(kind):
    model, given = MAKERS[kind](), inputs(kind)
    expected = model(**given).logits
    model.requires_grad_(False)
    adapters = []
    for name, module in leaves(model).items():
        if type(module) is nn.Linear:
            parent, _, own = name.rpartition(".")
            adapters.append(Adapter(module))
            setattr(model.get_submodule(parent), own, adapters[-1])
    output = model(**given).logits
    torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)
    output.square().sum().backward()
    assert all(adapter.up.weight.grad.abs().sum() > 0 for adapter in adapters)


@EVERY
@torch.no_grad()
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamic_quantisation(kind):
    model, given = MAKERS[kind](), inputs(kind)
    expected = model(**given).logits
    small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    found = small(**given).logits
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.2 * expected.abs().mean()


@pytest.mark.parametrize("kind", ["lm", "ctc", "classifier"])
def test_loss_over_accumulated_batches(kind):
    """As transformers' Trainer has it: each micro-batch's sum, divided by the labels of all."""
    model = MAKERS[kind]()
    assert model.accepts_loss_kwargs
    if kind == "lm":
        ids = torch.randint(0, 50, (4, 9))
        labels = ids.clone()
        labels[0, 3:] = -100
        given, count = {"input_ids": ids, "labels": labels}, (labels[:, 1:] != -100).sum()
    elif kind == "ctc":
        labels = torch.tensor([[1, 2, -100], [3, -100, -100], [1, 2, 3], [4, 5, -100]])
        given = {"input_features": torch.randn(4, 9, 8), "labels": labels}
        count = (labels != -100).sum()
    else:
        given = {"input_features": torch.randn(4, 9, 2), "labels": torch.tensor([0, 1, 2, 3])}
        count = torch.tensor(4)
    whole = model(**given).loss
    expected = torch.autograd.grad(whole, list(model.parameters()))
    model.zero_grad()
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4)):
        loss = model(**{name: tensor[rows] for name, tensor in given.items()}, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


# `make test` installs them; who only uses lt25 need not have them.
MISSING = "not installed: pip install --constraint constraints.txt --editable '.[dev]'"


@pytest.mark.parametrize("kind", ["lm", "ctc", "classifier"])
def test_an_adapter_of_peft_learns_is_saved_loaded_and_merged(kind, tmp_path):
    peft = pytest.importorskip("peft", reason=MISSING)
    given, options = inputs(kind), peft.LoraConfig(r=4, target_modules="all-linear")
    expected = MAKERS[kind]()(**given).logits
    model = peft.get_peft_model(MAKERS[kind](), options)
    torch.testing.assert_close(model(**given).logits, expected, atol=2e-5, rtol=2e-5)
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    model(**given).logits.square().mean().backward()
    # The other factor is zero, and so is the gradient of this one, in the first step.
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in learning.items() if "lora_B" in name)
    optimizer.step()
    learnt = model.eval()(**given).logits
    assert not torch.allclose(learnt, expected, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(MAKERS[kind](), tmp_path).eval()
    torch.testing.assert_close(loaded(**given).logits, learnt)
    torch.testing.assert_close(loaded.merge_and_unload()(**given).logits, learnt, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lm", "classifier"])
def test_the_trainer_of_transformers_accumulates_as_it_would_not(kind, tmp_path):
    """Loss and norm of the gradients of four micro-batches are those of one batch."""
    pytest.importorskip("accelerate", reason=MISSING)
    from transformers import Trainer, TrainingArguments

    if kind == "lm":
        ids = torch.randint(0, 50, (8, 9), generator=torch.Generator().manual_seed(0))
        examples = [
            {"input_ids": row, "labels": row.masked_fill(torch.arange(9) < n, -100)} for n, row in enumerate(ids)
        ]
    else:
        features = torch.randn(8, 9, 2, generator=torch.Generator().manual_seed(0))
        examples = [{"input_features": row, "labels": torch.tensor(n % 5)} for n, row in enumerate(features)]
    logs = []
    for size, accumulation in ((4, 1), (1, 4)):
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(MAKERS[kind](), arguments, train_dataset=examples)
        trainer.train()
        logs.append([{name: log[name] for name in ("loss", "grad_norm")} for log in trainer.state.log_history[:2]])
    for one, other in zip(*logs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
