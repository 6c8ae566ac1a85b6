"""Handing a study over to real clusters: one on this machine, and one whose head is in a network of its own."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.command_line import TINY, TINY_RUNS, environment, vitscale, write_study

pytestmark = pytest.mark.slow
TOKEN = secrets.token_hex(32)
ROOT = Path(__file__).parent.parent
SHORTER = TINY.replace("epochs: [5, 10]", "epochs: 5")


@contextmanager
def cluster_at(*prefix: str, head_ip: str = "") -> Iterator[str]:
    """The address of a cluster that lives in processes of its own as long as the block."""
    folder = tempfile.mkdtemp(prefix="vsc-")  # short: it holds sockets
    command = [*prefix, sys.executable, "-m", "tests.cluster_process", folder, *([head_ip] if head_ip else [])]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment({"RAY_AUTH_TOKEN": TOKEN}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield address
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with cluster_at() as address:
        yield address


def finished(cwd: Path, runs: int, **variables: str) -> dict[str, int]:
    """The runs of the tiny study by state, as soon as so many are done or a minute has passed."""
    states: dict[str, int] = {}
    for _ in range(60):
        status = vitscale("status", "tiny", "--json", cwd=cwd, **variables)
        assert status.code == 0, status.err
        states = json.loads(status.out)["studies"][0]["runs"]
        if states["done"] >= runs:
            break
        time.sleep(1)
    return {state: count for state, count in states.items() if count}


def test_a_cluster_finishes_what_was_handed_to_it_and_what_is_added_later(cluster: str, tmp_path: Path) -> None:
    study = write_study(tmp_path, SHORTER)
    handed = vitscale("submit", study, "--address", cluster, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN)
    assert handed.code == 0, handed.err
    assert f"handed to the cluster at {cluster}" in handed.err
    assert "vitscale status tiny --watch" in handed.err
    write_study(tmp_path)  # while its driver is at work, the study grows
    handed = vitscale("submit", study, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN, RAY_ADDRESS=cluster)
    assert handed.code == 0, handed.err
    assert finished(tmp_path, TINY_RUNS) == {"done": TINY_RUNS}
    [log] = (tmp_path / ".vitscale" / "logs").glob("driver-*.log")
    assert f"{log}" in handed.err
    assert "driver of 1" in log.read_text()
    again = vitscale("submit", study, "--address", cluster, cwd=tmp_path)
    assert again.code == 0
    assert "nothing was left to run" in again.err


def test_two_stores_with_equal_study_numbers_each_get_their_driver(cluster: str, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        handed = vitscale(
            "submit", write_study(folder, SHORTER), "--address", cluster, cwd=folder, RAY_AUTH_TOKEN=TOKEN
        )
        assert handed.code == 0, handed.err
    for folder in folders:
        assert finished(folder, 12) == {"done": 12}


def test_a_study_that_asks_for_more_than_a_cluster_has_is_refused(cluster: str, tmp_path: Path) -> None:
    study = write_study(tmp_path, TINY + "resources: {cpus: 64}\n")
    refused = vitscale("submit", study, "--address", cluster, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN)
    assert refused.code == 1
    assert "64 CPUs" in refused.err
    assert "Traceback" not in refused.err


def test_a_store_folder_that_the_cluster_cannot_make_is_refused(cluster: str, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    store = f"sqlite:///{tmp_path / 'store.db'}"
    where = ["--store", store, "--folder", str(study / "below")]
    refused = vitscale("submit", study, "--address", cluster, *where, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN)
    assert refused.code == 1
    assert "the cluster does not reach what it needs" in refused.err


@pytest.mark.parametrize("token", ["0" * 64, None])
def test_a_token_that_is_wrong_or_missing_is_said(token: str | None, cluster: str, tmp_path: Path) -> None:
    given = {"RAY_AUTH_TOKEN": token} if token else {"HOME": str(tmp_path)}
    started = time.monotonic()
    refused = vitscale("submit", write_study(tmp_path), "--address", cluster, cwd=tmp_path, **given)
    assert refused.code == 6
    assert "does not let us in: RAY_AUTH_TOKEN" in refused.err
    assert len([line for line in refused.err.splitlines() if not line.startswith(("tiny:", "to pay:"))]) == 1
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        ("nonsense", "host and port"),
        ("ray://127.0.0.1:10001", "host and port"),
        ("no-such-host.invalid:6379", "no Ray cluster answers"),
    ],
)
def test_an_address_that_nobody_answers_at_is_said_at_once(address: str, said: str, tmp_path: Path) -> None:
    started = time.monotonic()
    refused = vitscale("submit", write_study(tmp_path), "--address", address, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN)
    assert refused.code == 6
    assert said in refused.err
    assert address in refused.err
    assert "Traceback" not in refused.err
    assert time.monotonic() - started < 30


def test_a_server_that_is_no_ray_cluster_is_said_within_half_a_minute(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        address = f"127.0.0.1:{server.server_port}"
        refused = vitscale("submit", write_study(tmp_path), "--address", address, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN)
        server.shutdown()
        serving.join()
    assert refused.code == 6
    assert "no Ray cluster that we can talk to" in refused.err


@pytest.fixture
def cluster_elsewhere() -> Iterator[str]:
    """A cluster whose only host has another name and another network than this process, joined by a virtual cable."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("another host is made with a network namespace, which takes root, ip and unshare")
    number = os.getpid() % 16384
    name, ours, theirs = f"vsc{number}", f"vsa{number}", f"vsb{number}"
    net = f"10.{200 + number // 4096}.{number // 64 % 64}.{4 * (number % 64)}"
    first, second = (f"{net.rpartition('.')[0]}.{int(net.rpartition('.')[2]) + host}" for host in (1, 2))
    inside = ["ip", "netns", "exec", name]
    steps = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", ours, "type", "veth", "peer", "name", theirs],
        ["ip", "link", "set", theirs, "netns", name],
        ["ip", "addr", "add", f"{first}/30", "dev", ours],
        ["ip", "link", "set", ours, "up"],
        [*inside, "ip", "addr", "add", f"{second}/30", "dev", theirs],
        [*inside, "ip", "link", "set", theirs, "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
    ]
    try:
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespace can be made here: {done.stderr.strip()}")
        prefix = [*inside, "unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh"]
        with cluster_at(*prefix, head_ip=second) as address:
            yield f"{second}:{address.rpartition(':')[2]}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)  # its end of the cable goes too
        subprocess.run(["ip", "link", "del", ours], capture_output=True, check=False)


def test_sqlite_is_refused_to_a_cluster_with_other_hosts_and_postgresql_is_not(
    cluster_elsewhere: str, postgres_url: str, tmp_path: Path
) -> None:
    study = write_study(tmp_path, SHORTER)
    refused = vitscale("submit", study, "--address", cluster_elsewhere, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN)
    assert refused.code == 1, refused.err
    assert "a SQLite store serves one host" in refused.err
    assert "elsewhere" in refused.err
    assert "PostgreSQL" in refused.err
    store = {"VITSCALE_STORE": postgres_url}
    handed = vitscale("submit", study, "--address", cluster_elsewhere, cwd=tmp_path, RAY_AUTH_TOKEN=TOKEN, **store)
    assert handed.code == 0, handed.err
    assert finished(tmp_path, 12, **store) == {"done": 12}
    tried = json.loads(vitscale("status", "--json", cwd=tmp_path, **store).out)
    assert tried["studies"][0]["trainings"]["done"] == 3
