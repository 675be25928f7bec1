"""CTC against a sum over all alignments."""

import itertools

import pytest
import torch

from lt25.ops import ctc_loss, frames_needed, greedy_ids


def gpu(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


def collapse(path, blank):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]


def enumerate_loss(logits, labels, blank):
    """-log of the summed probability of every path [T] that collapses to the labels."""
    probabilities = logits.double().softmax(-1)
    paths = itertools.product(range(logits.shape[1]), repeat=logits.shape[0])
    total = sum(
        torch.stack([probabilities[t, symbol] for t, symbol in enumerate(path)]).prod()
        for path in paths
        if collapse(path, blank) == labels
    )
    return -torch.as_tensor(total).log()


@pytest.mark.parametrize("blank", [0, 2])
def test_sums_over_all_alignments(blank):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 3)
    targets = [[1, 1], [1], []]
    lengths = [5, 3, 2]
    labels = torch.tensor([[1, 1], [1, -100], [-100, -100]])
    expected = sum(enumerate_loss(logits[n, :length], targets[n], blank) for n, length in enumerate(lengths))
    found = ctc_loss(logits, torch.tensor(lengths), labels, blank)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_and_impossible_targets_have_no_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 4, requires_grad=True)
    loss = ctc_loss(logits, torch.tensor([4, 2]), torch.tensor([[1, 2, -100], [1, 1, 1]]))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert logits.grad[0, :4].any() and not logits.grad[0, 4:].any()
    assert not logits.grad[1].any(), "three equal labels need five frames, two are there"


def test_the_frames_that_labels_need_are_the_fewest_with_a_finite_loss():
    labels = torch.tensor([[1, 1, 1], [1, 2, 1], [2, 2, -100], [-100, -100, -100]])
    assert frames_needed(labels).tolist() == [5, 3, 3, 0]
    for row, needed in zip(labels, frames_needed(labels).tolist(), strict=True):
        for frames in range(max(needed - 1, 1), needed + 2):
            found = ctc_loss(torch.randn(1, frames, 3), torch.tensor([frames]), row[None])
            assert (found > 0) == (frames >= needed)


def test_half_precision_logits_are_normalised_in_float32():
    logits = torch.randn(1, 4, 3, dtype=torch.bfloat16)
    arguments = (torch.tensor([4]), torch.tensor([[1]]))
    assert torch.equal(ctc_loss(logits, *arguments), ctc_loss(logits.float(), *arguments))


def test_gradcheck():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    arguments = (torch.tensor([4, 3]), torch.tensor([[1, 2], [2, -100]]))
    assert torch.autograd.gradcheck(lambda x: ctc_loss(x, *arguments), logits)


def logits_of(paths, symbols=5):
    longest = max(map(len, paths))
    padded = torch.tensor([path + [2] * (longest - len(path)) for path in paths])
    return torch.nn.functional.one_hot(padded, symbols).float()


def test_repeats_collapse_and_blanks_drop_and_a_blank_keeps_a_double():
    paths = [[0, 2, 2, 0, 2, 3, 3, 1, 1, 4], [0, 0, 0], [3]]
    lengths = torch.tensor([len(path) for path in paths])
    assert greedy_ids(logits_of(paths), lengths) == [[2, 2, 3, 1, 4], [], [3]]
    assert greedy_ids(logits_of([[4, 0, 4, 0]]), torch.tensor([4]), blank=4) == [[0, 0]]


def test_frames_beyond_the_length_are_not_decoded():
    assert greedy_ids(logits_of([[3, 4, 2, 2]]), torch.tensor([2])) == [[3, 4]]
    assert greedy_ids(logits_of([[3, 4, 2, 2]]), torch.tensor([0])) == [[]]


def case(T, V, labels, lengths, blank, dtype, scale=3.0):
    """Logits [B, T, V], their lengths and labels padded with -100, on CUDA."""
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(len(labels), T, V, generator=generator)).to(dtype)
    width = max(map(len, labels))
    rows = [[*row, *[-100] * (width - len(row))] for row in labels]
    padded = torch.tensor(rows, dtype=torch.int64).reshape(len(labels), width)
    return logits.cuda(), torch.tensor(lengths).cuda(), padded.cuda()


def random_labels(count, V, blank, seed):
    labels = torch.randint(V - 1, (count,), generator=torch.Generator().manual_seed(seed))
    return (labels + (labels >= blank)).tolist()


def loss_and_gradient(logits, *arguments):
    logits = logits.clone().requires_grad_()
    loss = ctc_loss(logits, *arguments)
    (3 * loss).backward()
    return loss.detach(), logits.grad / 3


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "T, V, counts, lengths, blank, scale",
    [
        (1, 2, [0, 1, 1], [1, 1, 0], 0, 3),
        (40, 5, [3, 0, 30, 17], [40, 12, 35, 39], 4, 3),
        (400, 39, [60, 0, 31, 32, 33], [400, 400, 399, 7, 256], 0, 3),
        (1500, 39, [150, 140, 120, 150], [1500, 1499, 1024, 900], 0, 30),
        (700, 1024, [255, 256, 300, 0], [700, 512, 650, 700], 7, 1),
        (1200, 3000, [1000, 511, 512, 600], [1200, 1100, 1200, 640], 0, 3),
        (50, 32000, [20, 3], [50, 9], 31999, 3),
    ],
)
def test_cuda_kernels_match_torch_in_float64(T, V, counts, lengths, blank, scale, dtype):
    labels = [random_labels(count, V, blank, seed) for seed, count in enumerate(counts)]
    logits, lengths, labels = case(T, V, labels, lengths, blank, dtype, scale)
    loss, gradient = loss_and_gradient(logits, lengths, labels, blank)
    expected, expected_gradient = loss_and_gradient(logits.double(), lengths, labels, blank)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-4)
    tolerance = 1e-4 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0, atol=tolerance)
    again = loss_and_gradient(logits, lengths, labels, blank)
    assert torch.equal(again[0], loss) and torch.equal(again[1], gradient)


@gpu
def test_cuda_kernels_in_a_graph_and_compiled():
    logits, lengths, labels = case(60, 11, [random_labels(9, 11, 0, 0)] * 3, [60, 33, 20], 0, torch.float32)
    expected = loss_and_gradient(logits, lengths, labels)

    logits.requires_grad_()
    ctc_loss(logits, lengths, labels).backward()
    logits.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = ctc_loss(logits, lengths, labels)
        loss.backward()
    graph.replay()
    torch.testing.assert_close(loss.detach(), expected[0])
    torch.testing.assert_close(logits.grad, expected[1])

    logits.grad = None
    compiled = torch.compile(ctc_loss, fullgraph=True)
    compiled(logits, lengths, labels).backward()
    torch.testing.assert_close(logits.grad, expected[1])


@gpu
def test_cuda_kernels_never_wait_for_the_device():
    logits, lengths, labels = case(60, 11, [random_labels(9, 11, 0, 0)], [60], 0, torch.float32)
    loss_and_gradient(logits, lengths, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_and_gradient(logits, lengths, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
def test_cuda_kernels_pass_on_what_is_not_a_number():
    logits, lengths, labels = case(20, 5, [[1, 2], [3]], [20, 20], 0, torch.float32)
    logits[0, 7, 1] = float("nan")
    loss, gradient = loss_and_gradient(logits, lengths, labels)
    assert loss.isnan() and gradient[0].isnan().any() and gradient[1].isfinite().all()
