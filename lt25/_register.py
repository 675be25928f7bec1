"""Makes transformers' Auto classes and pipelines know what lt25 defines."""


def register_config() -> None:
    """Model type "lt25_hgrn" for AutoConfig; the models follow with the first configuration made."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from lt25.models.configuration import HGRNConfig

    AutoConfig.register(HGRNConfig.model_type, HGRNConfig, exist_ok=True)


def register() -> None:
    """Registers everything; calling it again changes nothing."""
    from lt25.data import features
    from lt25.models import auto

    register_config()
    auto.register()
    features.register()
