"""The order of the tests: modules that take long come first, so that processes which share them end at about the same time."""

import pytest

LONG = ("cluster", "workflow", "faults", "ops", "models", "training")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folders = {folder: place for place, folder in enumerate(LONG)}
    items.sort(key=lambda item: folders.get(item.path.parent.name, len(LONG)))
