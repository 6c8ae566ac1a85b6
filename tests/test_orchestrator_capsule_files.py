"""Capsules as archives: whole, the same for the same files, and refused in a sentence when they are anything else."""

import hashlib
import io
import json
import stat
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import capsule_files
from orchestrator.capsule_files import MANIFEST, CapsuleError

FILES = {"study.yaml": b"name: tiny\n", "tables/runs.parquet": bytes(range(256)) * 8}
ABOUT = {"program": "vitscale 0", "study": "tiny"}
PACKED = ("x.vitscale.tar.gz", "x.vitscale.zip")


def packed(file: Path, members: Mapping[str, bytes], edit: Callable[[tarfile.TarInfo], None] | None = None) -> Path:
    """A tar.gz as somebody else might make it."""
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if edit is not None and name != MANIFEST:
                edit(member)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return file


def manifest_of(files: Mapping[str, bytes], **changed: Any) -> bytes:
    listed = {
        name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    return json.dumps({"format": capsule_files.FORMAT, **ABOUT, "files": listed, **changed}).encode()


@pytest.mark.parametrize("name", PACKED)
def test_files_come_out_as_they_went_in(name: str, tmp_path: Path) -> None:
    capsule_files.write(tmp_path / name, ABOUT, FILES)
    manifest, files = capsule_files.read(tmp_path / name)
    assert files == FILES
    assert (manifest["format"], manifest["study"]) == (2, "tiny")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_other_programs_can_unpack_a_capsule(tmp_path: Path) -> None:
    tar, zipped = (tmp_path / name for name in PACKED)
    capsule_files.write(tar, ABOUT, FILES)
    capsule_files.write(zipped, ABOUT, FILES)
    listed = subprocess.run(["tar", "-tvzf", tar], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[-1] for line in listed] == [MANIFEST, *FILES]
    with zipfile.ZipFile(zipped) as archive:
        assert archive.testzip() is None
        assert all(stat.S_ISREG(member.external_attr >> 16) for member in archive.infolist())


@pytest.mark.parametrize("name", PACKED)
def test_equal_files_make_equal_bytes_in_whatever_order_and_at_whatever_time(name: str, tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    capsule_files.write(tmp_path / name, ABOUT, FILES)
    time.sleep(1.1)
    capsule_files.write(tmp_path / "later" / name, ABOUT, dict(reversed(FILES.items())))
    assert (tmp_path / name).read_bytes() == (tmp_path / "later" / name).read_bytes()


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_capsule_with_a_changed_bit_is_refused_or_says_the_same(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("flipped") / name
    capsule_files.write(file, ABOUT, FILES)
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    mask = data.draw(st.integers(1, 255))
    file.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
    try:
        manifest, files = capsule_files.read(file)
    except CapsuleError:
        return
    assert files == FILES
    assert manifest["study"] == "tiny"


@pytest.mark.parametrize("name", PACKED)
@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_capsule_that_was_cut_is_refused(name: str, share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("cut") / name
    capsule_files.write(file, ABOUT, FILES)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CapsuleError, match=r"is no (whole )?capsule"):
        capsule_files.read(file)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"PK", b"PK\x03\x04", b"\x1f\x8b\x08\x00"]))
def test_what_is_no_archive_is_refused(content: bytes, head: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("other") / "x.vitscale.tar.gz"
    file.write_bytes(head + content)
    with pytest.raises(CapsuleError, match=r"is no (whole )?capsule"):
        capsule_files.read(file)


BAD_NAMES = (
    "../up",
    "/etc/passwd",
    "a/../../up",
    "tables/../x",
    "..",
    "C:/x",
    "a\\b",
    ".hidden",
    "tables//x",
    "a/b/c",
    "é",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    files = {name: b"x"}
    tar = packed(tmp_path / "x.vitscale.tar.gz", {MANIFEST: manifest_of(files), **files})
    with pytest.raises(CapsuleError, match=r"a file in it is called .* as no file of a capsule is"):
        capsule_files.read(tar)
    zipped = tmp_path / "x.vitscale.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(MANIFEST, manifest_of(files))
        archive.writestr(name, b"x")
    with pytest.raises(CapsuleError, match=r"a file in it is called .* as no file of a capsule is"):
        capsule_files.read(zipped)
    assert sorted(each.name for each in tmp_path.iterdir()) == [tar.name, zipped.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_folders_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    def edit(member: tarfile.TarInfo) -> None:
        member.type, member.size, member.linkname = kind, 0, "/etc/passwd"

    files = {"study.yaml": b""}
    tar = packed(tmp_path / "x.vitscale.tar.gz", {MANIFEST: manifest_of(files), **files}, edit)
    with pytest.raises(CapsuleError, match=r"study.yaml in it is no plain file"):
        capsule_files.read(tar)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.vitscale.zip"
    with zipfile.ZipFile(file, "w") as archive:
        member = zipfile.ZipInfo("study.yaml")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(CapsuleError, match=r"study.yaml in it is no plain file"):
        capsule_files.read(file)


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.vitscale.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("study.yaml"))
    with pytest.raises(CapsuleError, match=r"study.yaml is in it twice"):
        capsule_files.read(file)


@pytest.mark.parametrize("name", PACKED)
def test_what_unpacks_to_more_than_is_allowed_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capsule_files.write(tmp_path / name, ABOUT, {"study.yaml": bytes(200_000)})
    monkeypatch.setattr(capsule_files, "MOST_BYTES", 100_000)
    with pytest.raises(CapsuleError, match="it holds more than 100,000 bytes"):
        capsule_files.read(tmp_path / name)


def test_missing_added_and_changed_files_are_named(tmp_path: Path) -> None:
    file, manifest = tmp_path / "x.vitscale.tar.gz", manifest_of(FILES)
    packed(file, {MANIFEST: manifest, "study.yaml": FILES["study.yaml"]})
    with pytest.raises(CapsuleError, match=r"is not whole: tables/runs.parquet is missing; get it again"):
        capsule_files.read(file)
    packed(file, {MANIFEST: manifest, **FILES, "more": b""})
    with pytest.raises(CapsuleError, match=r"was changed: more is not in its manifest"):
        capsule_files.read(file)
    packed(file, {MANIFEST: manifest, **FILES, "study.yaml": b"name: Tiny\n"})
    with pytest.raises(CapsuleError, match=r"was changed: study.yaml is not what its manifest says"):
        capsule_files.read(file)
    packed(file, FILES)
    with pytest.raises(CapsuleError, match=r"it has no MANIFEST.json that can be read"):
        capsule_files.read(file)


def test_a_capsule_of_a_newer_program_says_so(tmp_path: Path) -> None:
    file = packed(tmp_path / "x.vitscale.tar.gz", {MANIFEST: manifest_of({}, format=3)})
    with pytest.raises(CapsuleError, match=r"has the format 3, and this vitscale reads up to 2: upgrade vitscale"):
        capsule_files.read(file)
