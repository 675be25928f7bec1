"""The resolved `evaluation` section of an experiment, a key an attribute."""

from types import SimpleNamespace


class Options(SimpleNamespace):
    """What to evaluate, and on how much of it: the keys of the task's ``evaluation`` section in `lt25.tasks`."""

    @property
    def headline(self) -> str:
        """The split whose numbers stand for the model."""
        return "test" if "test" in self.splits else self.splits[-1]
