"""Which of transformers' Auto classes loads the model of a task."""

from transformers import AutoModelForCausalLM, AutoModelForCTC, AutoModelForSequenceClassification

AUTO_MODEL = {
    "classification": AutoModelForSequenceClassification,
    "speech_recognition": AutoModelForCTC,
    "language_modeling": AutoModelForCausalLM,
}
