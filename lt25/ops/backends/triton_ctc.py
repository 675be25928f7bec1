"""CTC on a GPU: the loss and the gradient of the logits, without synchronizing with the host.

Graves et al., 2006, equations 6 to 16. L labels have L + 1 blanks around them. Slot j holds blank j and label j; the blank after
label j is blank j + 1. With p the probabilities at time t, one step of the forward variable is

    blank(j) <- p_blank  * (blank(j) + label(j - 1))
    label(j) <- p_label(j) * (label(j) + blank(j) + label(j - 1) if labels j and j - 1 differ)

The backward variable is the same recursion with time and labels reversed. Both run in one launch, with a program for each
direction of each sequence that goes through time serially. This chain of T steps takes most of the time, so everything that can
be computed for all times at once is computed before it (emissions) or after it (occupancies, gradient).

Each number in the recursion is a pair of a float32 significand and an int32 exponent. Logarithms in float32 would lose the fourth
digit over a thousand frames, because their rounding error grows with the log-likelihood. Floats with an exponent shared between
states would lose paths that become likely only later. Pairs do neither, and aligning two of them takes integer arithmetic, which
is faster than exponentials. Significands are normalized to [1, 2) every UNROLL steps; a step multiplies them by at least 1 and
less than 6. A pair is stored in 64 bits, with the exponent in the upper half.

A thread holds the slots of R neighboring labels, so that only one label per thread comes from another thread, by a shuffle where
one warp suffices. In memory the order of slots is [R, threads], so that accesses fill whole cache lines.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lt25.ops.backends.triton_math import INTERPRETED, LOG2_E

IGNORE = -100
LN_2 = tl.constexpr(0.6931471805599453)
# log2(e) minus its value rounded to float32.
LOG2_E_REST = tl.constexpr(1.925963033500e-8)
_IGNORE = tl.constexpr(IGNORE)
# The exponent of zero. A probability whose exponent is below half of it, 4.6e7 nats, counts as impossible.
ZERO = tl.constexpr(-(2**27))


@triton.jit
def _power(exponent):
    """2 ** exponent as float32, for exponents up to 127; 0 from -127 down."""
    return ((tl.maximum(exponent, -127) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _pack(significand, exponent):
    low = significand.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    return (exponent.to(tl.int64) << 32) | low


@triton.jit
def _unpack(word):
    return word.to(tl.int32).to(tl.float32, bitcast=True), (word >> 32).to(tl.int32)


@triton.constexpr_function
def _load_instruction(offset):
    return f"ld.global.v2.b32 {{$0, $1}}, [$2 + {offset}];"


@triton.constexpr_function
def _store_instruction(offset):
    return f"st.global.v2.b32 [$1 + {offset}], {{$2, $3}}; mov.b32 $0, 0;"


@triton.jit
def _load(address, OFFSET: tl.constexpr):
    """The pair OFFSET words after each address.

    Like `_store` it is written in assembly: Triton's compile time is quadratic in the number of its own loads and stores.
    """
    if INTERPRETED:
        return _unpack(tl.load(address + OFFSET))
    else:
        return tl.inline_asm_elementwise(
            _load_instruction(8 * OFFSET),
            "=f,=r,l",
            [address.to(tl.int64)],
            (tl.float32, tl.int32),
            is_pure=True,
            pack=1,
        )


@triton.jit
def _store(address, OFFSET: tl.constexpr, significand, exponent):
    if INTERPRETED:
        tl.store(address + OFFSET, _pack(significand, exponent))
    else:
        tl.inline_asm_elementwise(
            _store_instruction(8 * OFFSET),
            "=r,l,f,r",
            [address.to(tl.int64), significand, exponent],
            tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def _probability(below_peak, norm):
    """exp(below_peak) / 2 ** norm as a pair; -inf becomes zero, NaN stays NaN."""
    log2_p = below_peak * LOG2_E - norm
    whole = tl.floor(log2_p)
    # A fused multiply-add, so that the fraction keeps all its digits where the whole part is large.
    fraction = tl.fma(below_peak, LOG2_E, -whole) + (below_peak * LOG2_E_REST - norm)
    zero = log2_p <= 0.5 * ZERO
    exponent = tl.where(log2_p > 0.5 * ZERO, whole, 0.0).to(tl.int32)
    return tl.where(zero, 1.0, tl.exp2(fraction)), tl.where(zero, ZERO, exponent)


@triton.jit
def _normalise(significand, exponent):
    shift = (significand.to(tl.int32, bitcast=True) >> 23) - 127
    significand = significand * ((127 - shift) << 23).to(tl.float32, bitcast=True)
    return significand, tl.maximum(exponent + shift, ZERO)


@triton.jit
def _frames(lengths, b, T):
    return tl.minimum(tl.maximum(tl.load(lengths + b).to(tl.int32), 0), T)


@triton.jit
def _label_count(labels, b, L, BLOCK: tl.constexpr):
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, L, BLOCK):
        j = start + tl.arange(0, BLOCK)
        label = tl.load(labels + b * L + j, mask=j < L, other=_IGNORE)
        count += (label != _IGNORE).to(tl.int32)
    return tl.sum(count)


@triton.jit
def _slot(j, R: tl.constexpr, P: tl.constexpr):
    """The position in memory of label j, and of the blank before it."""
    return j % R * P + j // R


@triton.jit(do_not_specialize=["B", "T", "T_PAD", "L", "blank"])
def _emissions(
    logits, lengths, labels, emissions, blanks, peaks, norms, B, T, T_PAD, L, V, blank,
    R: tl.constexpr, P: tl.constexpr, FRAMES: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Probabilities of every label and of the blank at FRAMES frames, for both directions, and the log-softmax's terms."""
    b = tl.program_id(1).to(tl.int64)
    length = _frames(lengths, b, T)
    first = tl.program_id(0) * FRAMES
    if first < length:
        t = first + tl.arange(0, FRAMES)
        inside = t < length
        row = logits + (b * T + t)[:, None] * V
        peak = tl.full([FRAMES], float("-inf"), tl.float32)
        total = tl.zeros([FRAMES], tl.float32)
        for start in range(0, V, CLASSES):
            v = start + tl.arange(0, CLASSES)
            mask = inside[:, None] & (v < V)[None]
            x = tl.load(row + v[None], mask=mask, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(peak, tl.max(x, 1))
            anchor = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp2((peak - anchor) * LOG2_E) + tl.sum(tl.exp2((x - anchor[:, None]) * LOG2_E), 1)
            peak = higher
        norm = tl.log2(total)
        tl.store(peaks + b * T + t, peak, mask=inside)
        tl.store(norms + b * T + t, norm, mask=inside)

        mirrored = length - 1 - t
        x = tl.load(logits + (b * T + t) * V + blank, mask=inside, other=0.0).to(tl.float32)
        significand, exponent = _probability(x - peak, norm)
        word = _pack(significand, exponent)
        tl.store(blanks + b * T_PAD + t, word, mask=inside)
        tl.store(blanks + (B + b) * T_PAD + mirrored, word, mask=inside)

        count = _label_count(labels, b, L, P)
        lanes = tl.arange(0, P)
        to = emissions + (b * T_PAD + t)[:, None] * (R * P)
        to_mirrored = emissions + ((B + b) * T_PAD + mirrored)[:, None] * (R * P)
        for r in tl.static_range(R):
            j = lanes * R + r
            label = tl.load(labels + b * L + j, mask=j < count, other=0)
            mask = inside[:, None] & (j < count)[None]
            known = (label >= 0) & (label < V)
            of_label = tl.load(row + label[None], mask=mask & known[None], other=float("-inf")).to(tl.float32)
            label_m, label_e = _probability(of_label - peak[:, None], norm[:, None])
            pair = _pack(label_m, label_e)
            tl.store(to + (r * P + lanes)[None], pair, mask=mask)
            tl.store(to_mirrored + _slot(count - 1 - j, R, P)[None], pair, mask=mask)


@triton.jit
def _load_block(emissions, blanks, R: tl.constexpr, P: tl.constexpr, UNROLL: tl.constexpr):
    """Load the emissions of UNROLL steps: for each, the blank and R vectors of labels."""
    pairs = ()
    for k in tl.static_range(UNROLL):
        pairs = pairs + (_load(blanks, k),)  # noqa: RUF005
        for r in tl.static_range(R):
            pairs = pairs + (_load(emissions, (k * R + r) * P),)  # noqa: RUF005
    return pairs


@triton.jit(do_not_specialize=["B", "T", "T_PAD", "L"])
def _recursion(
    emissions, blanks, lengths, labels, states, B, T, T_PAD, L,
    R: tl.constexpr, P: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Store, for t = 0 ... length, the forward (backward) variable of each state divided by its emission.

    Each program uses its own order of time and labels. At t = length, the value of the last blank is the likelihood.
    """
    program = tl.program_id(0).to(tl.int64)
    b = program % B
    length = _frames(lengths, b, T)
    lanes = tl.arange(0, P)
    count = 0
    for r in tl.static_range(R):
        j = lanes * R + r
        label = tl.load(labels + b * L + j, mask=j < L, other=_IGNORE)
        count += tl.sum((label != _IGNORE).to(tl.int32))

    blank_m, blank_e, label_m, label_e, repeats = (), (), (), (), ()
    for r in tl.static_range(R):
        j = lanes * R + r
        source = tl.where(program >= B, count - 1 - j, j)
        before = tl.where(program >= B, source + 1, source - 1)
        both = (j >= 1) & (j < count)
        same = tl.load(labels + b * L + source, mask=both, other=0) == tl.load(
            labels + b * L + before, mask=both, other=0
        )
        one = tl.full([P], 1.0, tl.float32)
        zero = tl.full([P], ZERO, tl.int32)
        repeats = repeats + (tl.where(same, ZERO, 0),)  # noqa: RUF005
        blank_m = blank_m + (one,)  # noqa: RUF005
        blank_e = blank_e + (tl.where(j == 0, 0, ZERO),)  # noqa: RUF005
        label_m = label_m + (one,)  # noqa: RUF005
        label_e = label_e + (zero,)  # noqa: RUF005

    emissions += program * T_PAD * (R * P) + lanes
    blanks += program * T_PAD + tl.zeros([P], tl.int32)
    states += program * T_PAD * (2 * R * P) + lanes
    previous = tl.maximum(lanes - 1, 0)
    blocks = length // UNROLL + 1
    following = _load_block(emissions, blanks, R, P, UNROLL)
    for block in range(blocks):
        pairs = following
        ahead = tl.minimum(block + 1, blocks - 1) * UNROLL
        following = _load_block(emissions + ahead * (R * P), blanks + ahead, R, P, UNROLL)
        for k in tl.static_range(UNROLL):
            pb_m, pb_e = pairs[k * (R + 1)]
            # Slots beyond the labels are uninitialized and may hold values that are not finite.
            left_m, left_e = _unpack(tl.gather(_pack(label_m[R - 1], label_e[R - 1]), previous, 0))
            left_m = tl.where(lanes == 0, 1.0, left_m)
            left_e = tl.where(lanes == 0, ZERO, left_e)
            new_blank_m, new_blank_e, new_label_m, new_label_e = (), (), (), ()
            for r in tl.static_range(R):
                top = tl.maximum(blank_e[r], left_e)
                total = blank_m[r] * _power(blank_e[r] - top) + left_m * _power(left_e - top)
                _store(states, (k * 2 * R + r) * P, total, top)
                new_blank_m = new_blank_m + (total * pb_m,)  # noqa: RUF005
                new_blank_e = new_blank_e + (top + pb_e,)  # noqa: RUF005

                p_m, p_e = pairs[k * (R + 1) + 1 + r]
                left_e = left_e + repeats[r]
                top = tl.maximum(tl.maximum(blank_e[r], label_e[r]), left_e)
                total = blank_m[r] * _power(blank_e[r] - top) + label_m[r] * _power(label_e[r] - top)
                total += left_m * _power(left_e - top)
                _store(states, ((k * 2 + 1) * R + r) * P, total, top)
                new_label_m = new_label_m + (total * p_m,)  # noqa: RUF005
                new_label_e = new_label_e + (top + p_e,)  # noqa: RUF005
                left_m, left_e = label_m[r], label_e[r]
            blank_m, blank_e, label_m, label_e = new_blank_m, new_blank_e, new_label_m, new_label_e
        new_blank_m, new_blank_e, new_label_m, new_label_e = (), (), (), ()
        for r in tl.static_range(R):
            m, e = _normalise(blank_m[r], blank_e[r])
            new_blank_m = new_blank_m + (m,)  # noqa: RUF005
            new_blank_e = new_blank_e + (e,)  # noqa: RUF005
            m, e = _normalise(label_m[r], label_e[r])
            new_label_m = new_label_m + (m,)  # noqa: RUF005
            new_label_e = new_label_e + (e,)  # noqa: RUF005
        blank_m, blank_e, label_m, label_e = new_blank_m, new_blank_e, new_label_m, new_label_e
        states += UNROLL * 2 * R * P


@triton.jit
def _likelihood(states, length, count, b, T_PAD, R: tl.constexpr, P: tl.constexpr):
    """The likelihood, as a pair, of sequences b (one or a vector) with `length` frames and `count` labels."""
    return _unpack(tl.load(states + (b * T_PAD + length) * (2 * R * P) + _slot(count, R, P)))


@triton.jit(do_not_specialize=["B", "T", "T_PAD", "L"])
def _total(
    states, lengths, labels, loss, B, T, T_PAD, L, R: tl.constexpr, P: tl.constexpr, SLOTS: tl.constexpr
):  # fmt: skip
    """The sum of -log likelihood in nats over the possible sequences. One program computes it, in a fixed order."""
    total = tl.zeros([P], tl.float32)
    for start in range(0, B, P):
        b = start + tl.arange(0, P)
        mask = b < B
        b = tl.minimum(b, B - 1).to(tl.int64)
        count = tl.zeros([P], tl.int32)
        for first in range(0, L, SLOTS):
            j = first + tl.arange(0, SLOTS)
            label = tl.load(labels + (b * L)[:, None] + j[None], mask=(j < L)[None], other=_IGNORE)
            count += tl.sum((label != _IGNORE).to(tl.int32), 1)
        m, e = _likelihood(states, _frames(lengths, b, T), count, b, T_PAD, R, P)
        total += tl.where(mask & (e > ZERO // 2), -(tl.log2(m) + e.to(tl.float32)) * LN_2, 0.0)
    tl.store(loss, tl.sum(total))


@triton.jit
def _product(forward, backward, p_m, p_e, scale, exponent):
    """forward * backward * p, divided by the likelihood, which is the pair (1 / scale, exponent)."""
    f_m, f_e = _unpack(forward)
    b_m, b_e = _unpack(backward)
    power = tl.maximum(f_e, ZERO) + tl.maximum(b_e, ZERO) + (p_e - exponent)
    return f_m * b_m * (p_m * scale) * _power(tl.minimum(power, 127))


@triton.jit(do_not_specialize=["B", "T", "T_PAD", "L"])
def _occupancies(
    states, emissions, blanks, lengths, labels, occupancy, blank_occupancy, norms, B, T, T_PAD, L,
    R: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The probability of each label's state at a frame, given the labels, and of all blanks together.

    Frames that do not count, past the end or of impossible sequences, get an infinite norm.
    """
    t, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    length = _frames(lengths, b, T)
    count = _label_count(labels, b, L, P)
    width: tl.constexpr = R * P
    m, exponent = _likelihood(states, length, count, b, T_PAD, R, P)
    scale = 1.0 / m
    counts = (t < length) & (exponent > ZERO // 2)
    tl.store(norms + b * T + t, float("inf"), mask=~counts)
    pb_m, pb_e = _unpack(tl.load(blanks + b * T_PAD + t, mask=counts, other=0))
    forward = states + (b * T_PAD + t) * (2 * width)
    backward = states + ((B + b) * T_PAD + (length - 1 - t)) * (2 * width)
    emissions += (b * T_PAD + t) * width
    occupancy += (b * T + t) * width
    total = tl.zeros([P], tl.float32)
    lanes = tl.arange(0, P)
    for r in tl.static_range(R):
        j, slot = lanes * R + r, r * P + lanes
        mask = counts & (j <= count)
        f = tl.load(forward + slot, mask=mask, other=0)
        g = tl.load(backward + _slot(count - j, R, P), mask=mask, other=0)
        total += tl.where(mask, _product(f, g, pb_m, pb_e, scale, exponent), 0.0)

        mask = counts & (j < count)
        f = tl.load(forward + width + slot, mask=mask, other=0)
        g = tl.load(backward + width + _slot(count - 1 - j, R, P), mask=mask, other=0)
        p_m, p_e = _unpack(tl.load(emissions + slot, mask=mask, other=0))
        tl.store(occupancy + slot, tl.where(mask, _product(f, g, p_m, p_e, scale, exponent), 0.0))
    tl.store(blank_occupancy + b * T + t, tl.sum(total))


@triton.jit(do_not_specialize=["T", "L", "blank"])
def _gradient(
    grad_loss, logits, labels, occupancy, blank_occupancy, peaks, norms, grad, T, L, V, blank,
    R: tl.constexpr, P: tl.constexpr, FRAMES: tl.constexpr, CLASSES: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """(softmax - occupancy of each class) * grad_loss at FRAMES frames and CLASSES classes.

    A product with a one-hot matrix adds the occupancies of equal labels. Each occupancy is split into two float16, which loses
    at most 2 ** -24 of a probability.
    """
    b = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * FRAMES
    frame = tl.arange(0, FRAMES)
    inside = frame < T - first
    v = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    start_of_block = b * T + first
    norm = tl.load(norms + start_of_block + frame, mask=inside, other=float("inf"))
    peak = tl.load(peaks + start_of_block + frame, mask=inside, other=0.0)
    counts = (norm != float("inf"))[:, None]
    place = frame[:, None] * V + v[None]
    x = tl.load(logits + start_of_block * V + place, mask=counts & (v < V)[None], other=0.0).to(tl.float32)
    value = tl.exp2((x - peak[:, None]) * LOG2_E - norm[:, None])

    width: tl.constexpr = R * P
    total = tl.zeros([FRAMES, CLASSES], tl.float32)
    occupancy += start_of_block * width
    for start in range(0, width, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        j = slot % P * R + slot // P
        label = tl.load(labels + b * L + j, mask=(slot < width) & (j < L), other=_IGNORE).to(tl.int32)
        own = label[:, None] == v[None]
        if tl.max(own.to(tl.int32)) > 0:
            mask = inside[:, None] & (slot < width)[None]
            part = tl.load(occupancy + frame[:, None] * width + slot[None], mask=mask, other=0.0)
            high = part.to(tl.float16)
            low = (part - high.to(tl.float32)).to(tl.float16)
            one_hot = own.to(tl.float16)
            total = tl.dot(low, one_hot, total)
            total = tl.dot(high, one_hot, total)
    of_blank = tl.load(blank_occupancy + start_of_block + frame, mask=inside, other=0.0)
    total += tl.where(v[None] == blank, of_blank[:, None], 0.0)
    value = tl.where(counts, (value - total) * tl.load(grad_loss), 0.0)
    tl.store(grad + start_of_block * V + place, value.to(grad.dtype.element_ty), mask=inside[:, None] & (v < V)[None])


def threads(L: int) -> int:
    """Threads of a program of the recursion for L labels: as few warps as give a thread at most 8 slots."""
    return 32 if L < 256 else 64 if L < 512 else 128 if L < 1024 else 256


def steps(L: int) -> int:
    """Steps of the recursion between loads, for L labels: as many as have their operands in registers.

    The number is small enough that, between two normalizations, sums of exponents fit int32 and products of two significands
    fit float32.
    """
    return 8 if width(L) <= 5 * threads(L) else 4


def width(L: int) -> int:
    """Stored slots for L labels and the blank after them: rounded up to a multiple of the threads."""
    P = threads(L)
    return (L + P) // P * P


def forward(
    logits: Tensor, logit_lengths: Tensor, labels: Tensor, blank: int, differentiable: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, and what `backward` needs (empty if not differentiable).

    Args:
        logits: bfloat16, float16 or float32 [B, T, V], contiguous.
        logit_lengths: int [B].
        labels: int [B, L], contiguous, padded at the end with -100.

    Returns:
        Loss [], occupancies of the labels [B, T, width(L)] and of the blank [B, T], the largest logit [B, T], and log2 of the
        sum of exp(logit - largest) [B, T], infinite for frames that do not count; all float32.
    """
    B, T, V = logits.shape
    L = labels.shape[1]
    P = threads(L)
    R = width(L) // P
    unroll = steps(L)
    t_pad = (T // unroll + 1) * unroll
    directions = 2 if differentiable else 1

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=logits.device)

    loss, peaks, norms = new(), new(B, T), new(B, T)
    emissions, blanks = new(2, B, t_pad, R * P, dtype=torch.int64), new(2, B, t_pad, dtype=torch.int64)
    states = new(directions, B, t_pad, 2, R * P, dtype=torch.int64)
    if B and T and V:
        frames = 4
        _emissions[triton.cdiv(T, frames), B](
            logits, logit_lengths, labels, emissions, blanks, peaks, norms, B, T, t_pad, L, V, blank,
            R=R, P=P, FRAMES=frames, CLASSES=min(triton.next_power_of_2(V), 1024), num_warps=2,
        )  # fmt: skip
    if B:
        _recursion[(directions * B,)](
            emissions, blanks, logit_lengths, labels, states, B, T, t_pad, L,
            R=R, P=P, UNROLL=unroll, num_warps=P // 32, num_stages=1,
        )  # fmt: skip
    _total[(1,)](states, logit_lengths, labels, loss, B, T, t_pad, L, R=R, P=P, SLOTS=32, num_warps=4)
    if not differentiable:
        return loss, new(0), new(0), new(0), new(0)

    occupancy, blank_occupancy = new(B, T, R * P), new(B, T)
    if B and T:
        _occupancies[T, B](
            states, emissions, blanks, logit_lengths, labels, occupancy, blank_occupancy, norms, B, T, t_pad, L,
            R=R, P=P, num_warps=1,
        )  # fmt: skip
    return loss, occupancy, blank_occupancy, peaks, norms


def backward(
    grad_loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    blank: int,
    occupancy: Tensor,
    blank_occupancy: Tensor,
    peaks: Tensor,
    norms: Tensor,
) -> Tensor:
    """The gradient of the logits, in their dtype."""
    B, T, V = logits.shape
    L = labels.shape[1]
    grad = torch.empty_like(logits)
    if grad.numel():
        P = threads(L)
        frames, classes, slots = (64, 64, 64) if V <= 64 else (64, 128, 32)
        _gradient[triton.cdiv(T, frames), triton.cdiv(V, classes), B](
            grad_loss, logits, labels, occupancy, blank_occupancy, peaks, norms, grad, T, L, V, blank,
            R=width(L) // P, P=P, FRAMES=frames, CLASSES=classes, SLOTS=slots, num_warps=4,
        )  # fmt: skip
    return grad
