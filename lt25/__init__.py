"""lt25: from a dataset's name to a trained, exported, evaluated and reported linear recurrent network."""

import wrapt

# transformers takes seconds to import, so lt25 registers with it only once somebody has imported it (or already has).


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _register_config(_module):
    from lt25._register import register_config

    register_config()
