"""Kernels: one public function each, backends behind it."""

from lt25.ops.ctc import ctc_loss
from lt25.ops.scan import hgrn_scan

__all__ = ["ctc_loss", "hgrn_scan"]
