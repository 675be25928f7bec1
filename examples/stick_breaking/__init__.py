"""A model of one's own: stick-breaking attention (Tan et al., 2024, https://arxiv.org/abs/2410.17980).

Name the package in config/config.yaml, and an experiment can say ``model: {model_type: stick_breaking}``:

    plugins: [examples/stick_breaking]

`experiment.yaml` beside this file is one: copy it to config/experiments/. The model is registered with transformers' Auto classes
in `model.py`, which is imported when a model is built, so that a mistake in an experiment is answered before torch is there.
"""

from lt25.models.families import Family, register

register(
    Family(
        "stick_breaking",
        "examples/stick_breaking",
        heads={"AutoModelForCausalLM": "lm_head"},
        inputs={"AutoModelForCausalLM": "model.embeddings"},
        module=f"{__name__}.model",
        config=f"{__name__}.configuration",
        # How long the longest packed text is, the host asks the device.
        graphs=False,
    )
)
