"""Datasets that need no download: each module has ``build(folder, options) -> revision``.

``build`` writes the files of the dataset into the empty ``folder`` and returns what stands for a published dataset's
revision: the version of the software that the files came out of.
"""
