"""The loss and the validation metric of each task, one module a task, found by `lt25.tasks.Task.module`.

A module has:

    loss(output, labels)    the loss of a batch, summed over its labels, in nats; what a model returns and the batch's labels
    metric(output, labels)  name -> (sum, count): what validation reports besides the loss, to be summed over batches and ranks
    METRIC, DIRECTION       which of `metric`'s names, or "loss", tells the best checkpoint; "max" or "min"
    COMPILES                whether `torch.compile` can take the loss
    of_head(hidden, weight, labels, z_loss)     left out, or the loss from what a linear head reads and the head's weight, which
                            then stands for the output: `loss` returns it as it is
    of_training(run, labels, **options, **targets)      left out, or the loss in training, of which ``loss`` is then what
                            validation measures; run: computes the model, with further arguments if given; options: those keys of
                            an experiment's sections ``training`` and ``augment`` that ``OPTIONS`` names; targets: those tensors
                            of the batch that ``TARGETS`` names
    infinite(inputs, labels, config)    left out, or how many examples of a batch have an infinite loss, which `loss` counts as 0:
                            from the model's inputs, the labels and the model's config
    sentences(output, labels, folder)   left out, or what the first utterances of a batch say and what is heard, in pairs; folder:
                            of the prepared data

``output`` is what `select(output)` keeps of the model's `transformers.utils.ModelOutput`, which the trainer calls at once.
"""

from torch import Tensor, nn

IGNORE = -100
"""Label of a position that has none; torchtitan counts all others."""


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the cross entropies, in nats.

    Args:
        logits: float [..., V].
        labels: int64 [...], `IGNORE` where there is none.
    """
    return nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), labels.flatten(), reduction="sum", ignore_index=IGNORE
    )


def count(labels: Tensor) -> Tensor:
    """Return how many labels there are, float64 []."""
    return (labels != IGNORE).sum().double()
