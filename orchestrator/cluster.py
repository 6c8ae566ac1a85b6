"""What Ray is asked for: a local cluster or a given one, and worker actors on it.

Ray is a substrate and no memory: what is done, failed or left is in the store.
"""

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import processes
from orchestrator.settings import Settings
from orchestrator.worker import Perform, Worker
from workers.kernels import allocator

NAMESPACE = "vitscale"
OBJECT_STORE_BYTES = 100 * 1024**2
"""Ray's shared memory on a laptop. Nothing large travels through it."""
ANSWER_SECONDS = 10
"""How long a cluster has for its first answer."""
_TOKEN = (
    "RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names, must hold the cluster's token "
    "(RAY_AUTH_MODE=disabled, if it has none)"
)
NOWHERE = "/"
"""Where we are while Ray starts. Workers work there, and import from there first: in the user's folder, a `db` of their
own would hide ours. It must outlive us: workers of a killed driver live on for some seconds."""
_TEMPORARY = f"vitscale-{processes.HOST.split('#')[-1][:4]}-"
"""Begins the names of our temporary folders; the pid that follows means something on this host only."""
_LONGEST_TEMPORARY = len("/var/tmp")
"""Ray puts sockets below it, whose paths the operating system limits to 107 characters."""


class ClusterUnreachable(Exception):
    """No Ray cluster answers at the address."""


@dataclass(frozen=True)
class Shape:
    """What one worker holds: threads and GPUs."""

    cpus: int
    gpus: int


# ------------------------------------------------------------------------------------------------------- connecting


@contextmanager
def local_cluster(cpus: int) -> Iterator[None]:
    """A Ray of our own on this machine, in a folder of its own, gone at the end."""
    _sweep_folders_of_the_dead()
    _prepare_environment()
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home folder
    import ray

    folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-", dir=_temporary_base()))
    try:
        with chdir(NOWHERE):
            ray.init(
                address="local",  # without it, any cluster that runs here would be joined
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                namespace=NAMESPACE,
                _temp_dir=str(folder),
            )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def remote_cluster(address: str) -> Iterator[None]:
    """A cluster that runs already. Our code travels with us: addressed by content, it wins over an older copy there.

    address: HOST:PORT of its head, or `auto` for the one that runs on this machine.
    Raises ClusterUnreachable, within half a minute.
    """
    _prepare_environment()
    os.environ.setdefault("RAY_py_gcs_connect_timeout_s", str(ANSWER_SECONDS))
    _check_reachable(address)
    import ray
    from ray.exceptions import RayError

    try:
        with chdir(NOWHERE):
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"py_modules": _our_packages(), "env_vars": allocator.ENVIRONMENT},
            )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, RayError) as error:
        raise ClusterUnreachable(
            f"the Ray cluster at {address} cannot be joined from here, run the command on one of its machines: "
            f"{_first_sentence(error)}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ask the address itself, because `ray.init` tries for seven minutes and calls a wrong token a lost connection.

    Raises ClusterUnreachable.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ClusterUnreachable(
            f"'{address}' is no address of a Ray cluster: give the host and port of its head, as in head.example:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ClusterUnreachable(
            f"no Ray cluster answers at {address}: {why}; is it up, and is the port that of its head?"
        ) from None
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        ensure_token_if_auth_enabled(None, create_token_if_missing=False)  # the client below aborts without one
        with _no_stderr():
            GcsClient(address=address)
    except AuthenticationError:
        raise ClusterUnreachable(f"the Ray cluster at {address} does not let us in: {_TOKEN}") from None
    except (RayError, RuntimeError) as error:
        raise ClusterUnreachable(
            f"what answers at {address} is no Ray cluster that we can talk to: {_first_sentence(error)}"
        ) from None


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Keep the lines away that Ray's C++ writes around a connection that fails: our one sentence says it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".") + "."


def _prepare_environment() -> None:
    """What Ray reads once, when it is imported, and what its processes on this machine inherit."""
    for name, value in allocator.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def _our_packages() -> list[Any]:
    import db
    import orchestrator
    import studies
    import workers

    return [db, orchestrator, studies, workers]


def _sweep_folders_of_the_dead() -> None:
    """Remove what local clusters left behind whose driver was killed."""
    for folder in _temporary_base().glob(f"{_TEMPORARY}*"):
        pid = folder.name.removeprefix(_TEMPORARY).split("-")[0]
        if pid.isdigit() and processes.started_at(int(pid)) is None:
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_base() -> Path:
    chosen = Path(tempfile.gettempdir())
    return chosen if len(str(chosen)) <= _LONGEST_TEMPORARY else Path("/tmp")


def capacity() -> Shape:
    """CPUs and GPUs of the whole cluster."""
    import ray

    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Shape(int(found.get("CPU", 0)), int(found.get("GPU", 0)))


def other_hosts() -> list[str]:
    """Names and addresses of the living nodes that are not on this machine, as far as addresses tell."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return sorted(
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in nodes
        if node["Alive"] and not _is_ours(node["NodeManagerAddress"])
    )


def _is_ours(address: str) -> bool:
    """Whether an IP address is one of this machine: only then can a socket be bound to it.

    Host names would not tell: containers on different machines may share one.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


# ----------------------------------------------------------------------------------------------------------- workers


@dataclass(frozen=True)
class Hired:
    """A worker at work."""

    shape: Shape
    actor: Any
    working: Any
    """Becomes ready when the worker has left its loop or is gone."""
    identity: Any

    def host_and_pid(self) -> tuple[str, int] | None:
        """Where it works; None when it never came to work."""
        import ray
        from ray.exceptions import RayError

        try:
            host, pid = ray.get(self.identity, timeout=0)
        except (RayError, TimeoutError):
            return None
        return host, pid


@dataclass(frozen=True)
class Left:
    """A worker that works no longer."""

    worker: Hired
    died: bool
    """The substrate says that its process is gone. False also when it cannot tell."""
    error: str | None


class Pool:
    """The workers of one driver."""

    def __init__(self, settings: Settings, study_id: int | None, perform: Perform | None = None) -> None:
        self.settings = settings
        self.study_id = study_id
        self.perform = perform
        self.workers: list[Hired] = []

    def hire(self, shape: Shape) -> None:
        """Start a worker. It begins to take runs as soon as Ray has found it a place."""
        import ray

        actor: Any = (
            ray.remote(Worker)
            .options(num_cpus=shape.cpus, num_gpus=shape.gpus, max_concurrency=2, max_restarts=0)
            .remote(self.settings, shape.cpus, shape.gpus, self.perform, (processes.HOST, *processes.own()))
        )
        self.workers.append(Hired(shape, actor, actor.work.remote(self.study_id), actor.identity.remote()))

    def left(self, seconds: float) -> list[Left]:
        """Wait up to so many seconds for workers to leave; those that did."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayActorError, RayError

        if not self.workers:
            return []
        ready, _ = ray.wait([hired.working for hired in self.workers], num_returns=1, timeout=seconds)
        found = []
        for hired in [hired for hired in self.workers if hired.working in ready]:
            self.workers.remove(hired)
            try:
                ray.get(hired.working)
                found.append(Left(hired, died=False, error=None))
            except ActorUnavailableError as error:
                found.append(Left(hired, died=False, error=short(error)))
            except RayActorError as error:
                found.append(Left(hired, died=True, error=short(error)))
            except RayError as error:  # the worker's loop itself failed: its process is alive, its run is not
                found.append(Left(hired, died=True, error=short(error)))
                ray.kill(hired.actor)
        return found

    def drop_unplaced(self) -> None:
        """Forget the workers that Ray has found no place for: they would never answer."""
        import ray

        for hired in [hired for hired in self.workers if hired.host_and_pid() is None]:
            ray.kill(hired.actor)
            self.workers.remove(hired)

    def ask(self, wish: str) -> None:
        """Ask every worker to make its run yield or stop, and to leave."""
        for hired in self.workers:
            hired.actor.ask.remote(wish)

    def dismiss(self, worker: Hired) -> None:
        """Let a worker go that seems to have nothing to do: a run that is ready by now keeps it."""
        worker.actor.dismiss.remote()


def short(error: Exception) -> str:
    """What an error of Ray says, without its paragraph of guesses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1].split(" Worker exit detail: ")[0]
