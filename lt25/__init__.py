"""lt25: from a dataset's name to a trained, exported, evaluated and reported linear recurrent network."""

import importlib

import wrapt

# transformers takes seconds to import, so lt25 registers with it only once somebody has imported it (or already has).


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_config(_module):
    from lt25._register import register_config

    register_config()


@wrapt.when_imported("transformers.models.auto.feature_extraction_auto")
def _import_feature_extractors(_module):
    importlib.import_module("lt25.data.features")


# In two steps, because it may be lt25.data.features itself that makes transformers import its Auto classes.
@wrapt.when_imported("lt25.data.features")
def _register_feature_extractors(features):
    features.register()
