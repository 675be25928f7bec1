"""Handwritten digits: the 1,797 scans of 8 by 8 pixels that come with scikit-learn, as PNG images in Parquet files.

The ``test`` file holds a fifth of each class, chosen by a fixed seed; the ``train`` file the rest. Columns: ``id`` (the
scan's number in scikit-learn's order), ``image`` ({"bytes", "path"}, as on the Hub), ``label`` (0 to 9).
"""

import io
from pathlib import Path
from typing import Any, cast

import numpy as np

TEST_FRACTION = 0.2


def build(folder: Path, options: dict) -> str:
    """Write ``train.parquet`` and ``test.parquet`` into ``folder``. Returns the revision."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import sklearn
    from sklearn.datasets import load_digits

    digits = cast(Any, load_digits())
    random = np.random.default_rng(25)
    in_test = np.zeros(len(digits.target), dtype=bool)
    for label in range(10):
        members = np.flatnonzero(digits.target == label)
        in_test[random.permutation(members)[: round(TEST_FRACTION * len(members))]] = True
    for split, chosen in (("train", ~in_test), ("test", in_test)):
        rows = [
            {
                "id": f"digit-{number:04d}",
                "image": {"bytes": _png(digits.images[number]), "path": None},
                "label": int(digits.target[number]),
            }
            for number in np.flatnonzero(chosen)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return f"scikit-learn {sklearn.__version__}"


def _png(scan: np.ndarray) -> bytes:
    """PNG bytes of one scan: 17 levels of ink, 0 to 16, spread over 0 to 255 so that viewers show them."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
