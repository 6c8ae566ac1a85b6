import io
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from studies.datasets import Files
from studies.manifests import Columns, Manifest
from workers.data.index import index_shards, manifest_of, write_index
from workers.data.shards import Shards
from workers.supervision import DataError

ROWS = 40
GROUP_ROWS = 4
NAMES = ["tench", "goldfish", "great white shark"]


def image_of(row: int) -> bytes:
    """Some bytes for a row: of another length for each, and not compressible."""
    return np.random.default_rng(row).bytes(200 + 7 * row)


def indexed(folder: Path, files: list[str], columns: Columns | None = None) -> Manifest:
    """The manifest of a folder's only split, and its index on disk."""
    columns = columns or Columns()
    split = index_shards(str(folder), files, columns)
    manifest = manifest_of({"train": split}, columns, channels=3, image_size=None)
    write_index(Files(location=str(folder)).index_location, manifest, {"train": split})
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of five row groups each, indexed."""
    for shard in range(2):
        write(tmp_path, f"train-{shard}.parquet", range(shard * 20, shard * 20 + 20))
    indexed(tmp_path, ["train-0.parquet", "train-1.parquet"])
    return tmp_path


def write(folder: Path, file: str, rows: range) -> None:
    images = [{"bytes": image_of(row), "path": f"{row}.jpg"} for row in rows]
    table = pa.table({"image": images, "label": [row % 5 for row in rows], "caption": ["words"] * len(rows)})
    pq.write_table(table, folder / file, row_group_size=GROUP_ROWS, write_page_index=True)


def opened(folder: Path) -> Shards:
    return Shards(Files(location=str(folder)), "train", None)


def everything(shards: Shards) -> tuple[list[bytes], list[Any]]:
    groups = [shards.read(group) for group in range(len(shards.row_groups.rows_G))]
    assert [group.first_row for group in groups] == shards.row_groups.first_row_G.tolist()
    labels = [label for group in groups for label in group.labels]
    return [image for group in groups for image in group.images], labels


# -------------------------------------------------------------------------------------------------- the hub's layout


def jpeg(row: int) -> bytes:
    """A JPEG image of its own for each row."""
    stream = io.BytesIO()
    Picture.new("RGB", (8 + row, 16), (row * 5 % 256, 9, 90)).save(stream, "JPEG")
    return stream.getvalue()


def hub_set(images: list[Any]) -> Any:
    from datasets import ClassLabel, Dataset, Features, Image  # type: ignore[import-untyped]

    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": images, "label": [row % 3 for row in range(len(images))]}, features=features)


@pytest.mark.parametrize("batch_size", [None, 10])
def test_shards_that_datasets_wrote_load_unchanged(tmp_path: Path, batch_size: int | None) -> None:
    images = [jpeg(row) for row in range(ROWS)]
    whole = hub_set([{"bytes": image, "path": f"n01440764_{row}.JPEG"} for row, image in enumerate(images)])
    files = [f"train-{shard:05d}-of-00002.parquet" for shard in range(2)]
    for shard, file in enumerate(files):
        whole.shard(num_shards=2, index=shard, contiguous=True).to_parquet(tmp_path / file, batch_size=batch_size)

    manifest = indexed(tmp_path, files)
    found, labels = everything(opened(tmp_path))
    assert found == images
    assert labels == [row % 3 for row in range(ROWS)]
    assert manifest.class_names == tuple(NAMES)
    assert manifest.splits["train"].class_counts == (14, 13, 13)
    assert opened(tmp_path).row_groups.rows_G.tolist() == ([20, 20] if batch_size is None else [10] * 4)


def test_shards_as_push_to_hub_makes_them_of_files_load_unchanged(tmp_path: Path) -> None:
    from datasets.table import embed_table_storage  # type: ignore[import-untyped]

    images = [jpeg(row) for row in range(ROWS)]
    paths = [tmp_path / f"{row}.jpg" for row in range(ROWS)]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    of_files = hub_set([str(path) for path in paths])
    # The steps of Dataset._push_parquet_shards_to_hub_single, without the hub.
    embedded = of_files.with_format("arrow").map(embed_table_storage, batched=True, batch_size=100, keep_in_memory=True)
    embedded.with_format(None).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    indexed(tmp_path, ["train-00000-of-00001.parquet"])
    assert everything(opened(tmp_path))[0] == images

    table = of_files.with_format("arrow")[:]
    pq.write_table(table, tmp_path / "paths.parquet", row_group_size=GROUP_ROWS)
    indexed(tmp_path, ["paths.parquet"])
    with pytest.raises(DataError, match=r"paths.parquet, row group 2: row 0 .* holds no bytes in 'image': write the"):
        opened(tmp_path).read(2)


def test_names_of_the_classes_in_a_list_of_labels_are_found(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, List

    features = Features({"img": Image(), "attributes": List(ClassLabel(names=NAMES))})
    labels = [[0, 2], [], [1]]
    images = [{"bytes": jpeg(row), "path": None} for row in range(3)]
    Dataset.from_dict({"img": images, "attributes": labels}, features=features).to_parquet(tmp_path / "a.parquet")
    manifest = indexed(tmp_path, ["a.parquet"], Columns(image="img", label="attributes"))
    assert manifest.class_names == tuple(NAMES)
    assert manifest.splits["train"].class_counts == (1, 1, 1)
    found = opened(tmp_path).read(0)
    assert found.labels == labels
    assert found.images == [jpeg(row) for row in range(3)]
    assert opened(tmp_path).read(0, np.array([2, 0])).labels == [[1], [0, 2]]


BINARY = pa.array([image_of(row) for row in range(7)], pa.binary())


@pytest.mark.parametrize(
    "image",
    [
        BINARY,
        BINARY.cast(pa.large_binary()),
        BINARY.cast(pa.binary_view()),
        BINARY.dictionary_encode(),
        pa.StructArray.from_arrays([BINARY.cast(pa.large_binary())], ["bytes"]),
        pa.StructArray.from_arrays([pa.array(["x"] * 7, pa.large_string()), BINARY], ["path", "bytes"]),
        pa.StructArray.from_arrays([BINARY.dictionary_encode()], ["bytes"]),
    ],
    ids=lambda image: str(image.type),
)
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False, "compression": "zstd", "data_page_version": "2.0"}])
def test_images_in_every_kind_of_binary_column_are_read(tmp_path: Path, image: Any, options: dict[str, Any]) -> None:
    table = pa.table({"image": image, "label": range(7)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3, **options)
    indexed(tmp_path, ["a.parquet"])
    images, labels = everything(opened(tmp_path))
    assert images == BINARY.to_pylist()
    assert labels == list(range(7))


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "a.jpg"}])
def test_a_row_without_an_image_among_others_is_an_empty_one(tmp_path: Path, missing: Any) -> None:
    images = [{"bytes": b"x", "path": "a.jpg"}] * 4 + [missing]
    pq.write_table(pa.table({"image": images, "label": [0] * 5}), tmp_path / "a.parquet", row_group_size=3)
    indexed(tmp_path, ["a.parquet"])
    assert len(opened(tmp_path).read(0).images) == 3
    assert opened(tmp_path).read(1).images == [b"x", b""]


# ----------------------------------------------------------------------------------------------------------- reading


def test_rows_are_read_in_the_order_of_the_files(folder: Path) -> None:
    shards = opened(folder)
    images, labels = everything(shards)
    assert images == [image_of(row) for row in range(ROWS)]
    assert labels == [row % 5 for row in range(ROWS)]
    assert shards.rows == ROWS
    assert [shards.group_of(row) for row in (0, 3, 4, 19, 20, 39)] == [0, 0, 1, 4, 5, 9]
    assert shards.named(23) == "train-1.parquet, row 3"


def test_only_the_wanted_rows_of_a_row_group_are_kept(folder: Path) -> None:
    group = opened(folder).read(6, np.array([3, 1]))
    assert group.first_row == 24
    assert group.images == [image_of(27), image_of(25)]
    assert list(group.labels) == [2, 0]
    assert opened(folder).read(6, np.array([], dtype=np.int64)).images == []


def test_many_threads_read_what_one_reads(folder: Path) -> None:
    shards = opened(folder)
    order = np.random.default_rng(0).integers(0, 10, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shards.read, order))
    for group, read in zip(order, found, strict=True):
        assert read.images == [image_of(row) for row in range(group * GROUP_ROWS, (group + 1) * GROUP_ROWS)]


def test_more_shards_than_may_stay_open_are_read(tmp_path: Path) -> None:
    files = [f"{shard}.parquet" for shard in range(150)]
    write(tmp_path, files[0], range(4))
    for file in files[1:]:
        (tmp_path / file).hardlink_to(tmp_path / files[0])
    indexed(tmp_path, files)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    shards = opened(tmp_path)
    for _ in range(2):
        assert everything(shards)[0] == [image_of(row) for row in range(4)] * 150
    assert len(list(descriptors.iterdir())) - before <= 130


# ----------------------------------------------------------------------------- what is not what the index knows of


def test_the_fingerprint_must_be_the_expected_one(folder: Path) -> None:
    files = Files(location=str(folder))
    fingerprint = opened(folder).index.manifest.fingerprint("train")
    assert Shards(files, "train", fingerprint).rows == ROWS
    with pytest.raises(DataError, match=rf"has the fingerprint {fingerprint[:12]}..., not 000000000000...: put back"):
        Shards(files, "train", "0" * 64)
    with pytest.raises(DataError, match="has no split 'test' among train"):
        Shards(files, "test", None)


def replace_byte(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_a_missing_shard_is_an_error_that_names_file_row_group_and_cure(folder: Path) -> None:
    (folder / "train-1.parquet").unlink()
    assert opened(folder).read(4).first_row == 16
    with pytest.raises(DataError, match=rf"^{folder}/train-1.parquet, row group 2: the file is missing: put it back"):
        opened(folder).read(7)


def test_a_truncated_shard_is_an_error_that_names_file_row_group_and_cure(folder: Path) -> None:
    path = folder / "train-1.parquet"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"train-1.parquet, row group 0: .* so it is truncated: put the file back"):
        opened(folder).read(5)


def test_a_shard_that_is_cut_while_it_is_open_is_an_error(folder: Path) -> None:
    shards = opened(folder)
    shards.read(5)
    path = folder / "train-1.parquet"
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(DataError, match=r"train-1.parquet, row group 4: the file became shorter"):
        shards.read(9)


def test_changed_bytes_are_an_error_in_their_row_group_alone(folder: Path) -> None:
    groups = opened(folder).row_groups
    replace_byte(folder / "train-1.parquet", int(groups.offset_G[7] + groups.size_G[7] // 2))
    shards = opened(folder)
    assert shards.read(6).first_row == 24
    with pytest.raises(DataError, match=r"train-1.parquet, row group 2: its bytes changed since .*: put the file back"):
        shards.read(7)
    with pytest.raises(DataError, match="its bytes changed"):
        shards.read(7, np.array([0]))


def test_another_shard_in_the_place_of_one_is_an_error(folder: Path) -> None:
    first, second = folder / "train-0.parquet", folder / "train-1.parquet"
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=r"train-0.parquet, row group 0: .* so it is another one: put the file back"):
        opened(folder).read(0)
    # Of the same size, and with the same bytes wherever these do not depend on the images.
    write(folder, "train-0.parquet", range(20))
    table = pq.read_table(folder / "train-0.parquet")
    flipped = table.set_column(1, "label", pa.array([(label + 1) % 5 for label in table["label"].to_pylist()]))
    pq.write_table(flipped, folder / "train-0.parquet", row_group_size=GROUP_ROWS, write_page_index=True)
    with pytest.raises(DataError, match=r"train-0.parquet, row group 0: .* since it was indexed: put the file back"):
        opened(folder).read(0)


def test_no_changed_bit_of_what_is_read_goes_unnoticed(folder: Path) -> None:
    path = folder / "train-0.parquet"
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(4, len(whole), 150).tolist()
    for place in [*places, *range(len(whole) - 8, len(whole))]:
        replace_byte(path, place)
        with pytest.raises(DataError, match="train-0"):
            everything(opened(folder))
        path.write_bytes(whole)


def test_columns_that_the_files_have_not_are_an_error(folder: Path) -> None:
    manifest = folder / "vitscale-index" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"label": "label"', '"label": "class"'))
    with pytest.raises(DataError, match=r"train-0.parquet, row group 0 has no column 'class' among image, label"):
        opened(folder).read(0)


# --------------------------------------------------------------------------------------------------- an object store


class Bucket(BaseHTTPRequestHandler):
    """The part of S3 that reads files, with a fault before each answer."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, asked: Counter[str], *connection: Any) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*connection)

    def do_HEAD(self) -> None:
        self.answer(whole=False)

    def do_GET(self) -> None:
        self.answer(whole=True)

    def answer(self, *, whole: bool) -> None:
        asked = self.headers.get("Range", "")
        request = f"{self.command} {self.path} {asked}"
        self.asked[request] += 1
        if self.asked[request] == 1:
            return self.reply(503, 0)
        path = self.folder / unquote(urlsplit(self.path).path).removeprefix("/bucket/")
        if not path.is_file():
            return self.reply(404, 0)
        data = path.read_bytes()
        if not asked:
            return self.reply(200, len(data), data if whole else b"")
        start, stop = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        part = data[start : stop + 1]
        return self.reply(206, len(part), part, f"bytes {start}-{start + len(part) - 1}/{len(data)}")

    def reply(self, status: int, size: int, body: bytes = b"", content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Counter[str]]]:
    """The query that leads S3's URIs to the folder, and what was asked for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    asked: Counter[str] = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Bucket, folder, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"?scheme=http&endpoint_override=127.0.0.1:{server.server_address[1]}&region=us-east-1", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_shards_are_read_from_an_object_store_that_fails_now_and_then(
    folder: Path, bucket: tuple[str, Counter[str]]
) -> None:
    query, asked = bucket
    files = Files(location=f"s3://bucket{query}", index=f"s3://bucket/vitscale-index{query}")
    shards = Shards(files, "train", opened(folder).index.manifest.fingerprint("train"))
    assert shards.read(6).images == [image_of(row) for row in range(24, 28)]
    assert any(times > 1 for request, times in asked.items() if request.startswith("GET /bucket/train-1.parquet"))
    groups = shards.row_groups
    start, size = int(groups.offset_G[6]), int(groups.size_G[6])
    assert f"GET /bucket/train-1.parquet bytes={start}-{start + size - 1}" in asked

    (folder / "train-0.parquet").unlink()
    with pytest.raises(DataError, match=r"^s3://bucket/train-0.parquet, row group 1: the file is missing: put it back"):
        shards.read(1)
