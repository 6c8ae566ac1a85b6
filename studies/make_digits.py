"""Writes `studies/digits/digits.parquet` from the UCI handwritten digits that scikit-learn carries. Kept as a record.

    python -m studies.make_digits

1,797 images of 8 x 8 pixels with 17 grey levels (0..16, stored as 0..255), 10 classes, in the layout that image data
sets have on the Hugging Face hub. Rows are shuffled with a fixed seed; `studies/datasets.py` says which rows are which
split, and holds the fingerprint of them all. The index beside the file is written by `workers/data/index.py`, and
`tests/test_workers_index.py` compares the two.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FILE = Path(__file__).parent / "digits" / "digits.parquet"
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": [str(digit) for digit in range(10)]},
}


def png(image_HW: np.ndarray) -> bytes:
    """A grey image as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image_HW, mode="L").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Write the file."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    table = pa.table(
        {
            "image": [{"bytes": png(images[row]), "path": f"{row:04d}.png"} for row in order],
            "label": pa.array(digits.target[order], pa.int64()),
        },
        schema=pa.schema(
            [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
            metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
        ),
    )
    pq.write_table(table, FILE, compression="zstd")


if __name__ == "__main__":
    main()
