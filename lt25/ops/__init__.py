"""Kernels: one public function each, backends behind it."""

from lt25.ops.causal import causal_conv
from lt25.ops.conv import short_conv
from lt25.ops.cross_entropy import linear_cross_entropy
from lt25.ops.ctc import ctc_loss, frames_needed, greedy_ids
from lt25.ops.dropout import dropout
from lt25.ops.layer import mixer_step, mlp_step
from lt25.ops.linear import add_norm_linear, parallel_linear
from lt25.ops.mix import hgrn_mix
from lt25.ops.mlp import gated_mlp, swiglu_linear
from lt25.ops.rows import add_rms_norm, gated_rms_norm, swiglu
from lt25.ops.scan import hgrn_scan
from lt25.ops.selective import selective_scan
from lt25.ops.ssd import ssd_scan
from lt25.ops.step import hgrn_step
from lt25.ops.token import argmax, embedding

__all__ = [
    "add_norm_linear",
    "add_rms_norm",
    "argmax",
    "causal_conv",
    "ctc_loss",
    "dropout",
    "embedding",
    "frames_needed",
    "gated_mlp",
    "gated_rms_norm",
    "greedy_ids",
    "hgrn_mix",
    "hgrn_scan",
    "hgrn_step",
    "linear_cross_entropy",
    "mixer_step",
    "mlp_step",
    "parallel_linear",
    "selective_scan",
    "short_conv",
    "ssd_scan",
    "swiglu",
    "swiglu_linear",
]
