"""Backends of the HGRN scan; :mod:`lt25.ops.scan` chooses between them."""
