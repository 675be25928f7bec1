"""The models' entries in transformers' Auto classes."""

import functools


@functools.cache
def register() -> None:
    """Registers the models with AutoModel, AutoModelForCausalLM, AutoModelForCTC and AutoModelForSequenceClassification.

    Called by the first configuration made: importing the models any earlier, while transformers is being imported
    itself, runs into its circular imports, and without a configuration no Auto class can look for a model.
    """
    from transformers.models.auto import modeling_auto as auto

    from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNForCTC, HGRNForSequenceClassification, HGRNModel

    auto.AutoModel.register(HGRNConfig, HGRNModel, exist_ok=True)
    auto.AutoModelForCausalLM.register(HGRNConfig, HGRNForCausalLM, exist_ok=True)
    auto.AutoModelForCTC.register(HGRNConfig, HGRNForCTC, exist_ok=True)
    auto.AutoModelForSequenceClassification.register(HGRNConfig, HGRNForSequenceClassification, exist_ok=True)
