"""HGRN and its models, each a transformers `PreTrainedModel`."""

from lt25.models.causal_lm import HGRNForCausalLM
from lt25.models.classifier import HGRNForSequenceClassification
from lt25.models.configuration import HGRNConfig
from lt25.models.ctc import HGRNForCTC
from lt25.models.hgrn import HGRNModel

__all__ = ["HGRNConfig", "HGRNForCTC", "HGRNForCausalLM", "HGRNForSequenceClassification", "HGRNModel"]
