"""Checkpoints that are whole or not there, and damage that is found."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from workers.checkpoints import Facts, forget, load, load_facts, save, step_folder
from workers.supervision import CheckpointError

FACTS = Facts(run="a" * 64, training="{}", step=40, numerics="cpu avx2 threads=1 torch=2.13.0", mixed_numerics=False)
TENSORS = {"model.weight": torch.arange(1000, dtype=torch.float32).view(10, 100), "optimizer.step": torch.tensor(3.0)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = step_folder(tmp_path, 40)
    save(folder, TENSORS, FACTS)
    return folder


def test_a_checkpoint_gives_back_its_bits_and_facts(saved: Path) -> None:
    tensors, facts = load(saved)
    assert facts == FACTS == load_facts(saved)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert saved.name == "step-00000040"


def test_equal_tensors_give_equal_files(saved: Path, tmp_path: Path) -> None:
    save(tmp_path / "again", dict(reversed(TENSORS.items())), FACTS)
    assert (tmp_path / "again/state.safetensors").read_bytes() == (saved / "state.safetensors").read_bytes()


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
def test_every_flipped_bit_is_found(file: str, saved: Path) -> None:
    path = saved / file
    content = path.read_bytes()
    step = max(1, len(content) // 60)
    for place in range(0, len(content), step):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            loaded = load(saved)[1]
        except CheckpointError:
            continue
        # Between the parts of a JSON text some white space may become other white space: then nothing was said
        # otherwise.
        assert file == "manifest.json"
        assert json.loads(changed) == json.loads(content)
        assert loaded == FACTS


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
def test_a_file_that_was_cut_or_lost_is_found(file: str, saved: Path) -> None:
    path = saved / file
    content = path.read_bytes()
    for size_bytes in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size_bytes])
        with pytest.raises(CheckpointError, match=r"is not whole"):
            load(saved)
    (saved / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"is no sealed JSON"):
        load(saved)
    path.unlink()
    (saved / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"No such file or directory"):
        load(saved)


def test_a_checkpoint_of_another_format_is_refused(saved: Path) -> None:
    from workers import checkpoints

    content = json.loads((saved / "manifest.json").read_text())
    del content["seal"]
    content["format"] = 99
    (saved / "manifest.json").write_text(json.dumps({**content, "seal": checkpoints._seal(content)}))
    with pytest.raises(CheckpointError, match="has the format 99, and this code reads 1"):
        load(saved)


def test_a_checkpoint_is_never_written_over(saved: Path) -> None:
    with pytest.raises(FileExistsError):
        save(saved, {}, FACTS)
    assert load(saved)[1] == FACTS


def test_what_a_killed_process_left_is_in_nobodys_way(saved: Path) -> None:
    leftover = saved.parent / "step-00000041.writing"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half")
    save(step_folder(saved.parent, 41), TENSORS, FACTS)
    assert sorted(path.name for path in saved.parent.iterdir()) == ["step-00000040", "step-00000041"]


def test_a_process_killed_at_any_call_leaves_the_old_checkpoint_and_no_torn_one(saved: Path) -> None:
    """The process dies at its n-th call to the file system, for every n until it survives."""
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from tests_facts import FACTS, TENSORS
        from workers.checkpoints import save
        CALLS = ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.listdir", "os.scandir")
        calls_left = [0]
        armed = [False]
        def see(event, arguments):
            if armed[0] and event in CALLS:
                calls_left[0] -= 1
                if calls_left[0] < 0:
                    os._exit(9)
        sys.addaudithook(see)
        real_fsync = os.fsync
        def fsync(descriptor):
            see("open", ())
            real_fsync(descriptor)
        os.fsync = fsync
        for calls in range(100):
            child = os.fork()
            if child == 0:
                calls_left[0], armed[0] = calls, True
                save(Path(sys.argv[1]) / f"new-{calls}", TENSORS, FACTS)
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                print(calls)
                break
    """)
    (saved.parent / "tests_facts.py").write_text(
        "import torch\nfrom workers.checkpoints import Facts\n"
        f"FACTS = Facts.model_validate_json({FACTS.model_dump_json()!r})\n"
        "TENSORS = {'a': torch.arange(10.0)}\n"
    )
    attempt = saved.parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(attempt)],
        env={**os.environ, "PYTHONPATH": f"{attempt}:{Path.cwd()}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    survived = int(done.stdout)
    assert survived > 8  # the process did die at each of its calls
    whole = []
    for calls in range(survived + 1):
        if (folder := attempt / f"new-{calls}").exists():
            assert load(folder)[1] == FACTS
            whole.append(calls)
    assert survived in whole
    assert len(whole) < survived
    assert load(saved)[1] == FACTS


def test_a_full_disk_leaves_the_old_checkpoint_whole_and_nothing_of_the_new(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system of 64 KiB cannot be mounted here; the next test limits the file's size instead")
    try:
        save(step_folder(disk, 1), TENSORS, FACTS)
        with pytest.raises(OSError, match="No space left on device") as caught:
            save(step_folder(disk, 2), {"large": torch.zeros(100_000)}, FACTS)
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in disk.iterdir()] == ["step-00000001"]
        assert load(step_folder(disk, 1))[1] == FACTS
        save(step_folder(disk, 3), TENSORS, FACTS)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_not_grow_leaves_the_old_checkpoint_whole(saved: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            save(step_folder(saved.parent, 41), {"large": torch.zeros(100_000)}, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in saved.parent.iterdir()] == ["step-00000040"]
    assert load(saved)[1] == FACTS


def test_forgetting_keeps_the_current_checkpoint_and_what_is_not_ours(saved: Path) -> None:
    attempt = saved.parent
    save(step_folder(attempt, 50), TENSORS, FACTS)
    (attempt / "step-00000060.writing").mkdir()
    (attempt / "log.txt").write_text("a line")
    forget(attempt, keep=step_folder(attempt, 50))
    assert sorted(path.name for path in attempt.iterdir()) == ["log.txt", "step-00000050"]
    forget(attempt / "not there", keep=None)
