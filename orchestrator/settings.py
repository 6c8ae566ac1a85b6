"""Where a command's store and files are, from flags, environment and the working folder."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = ".vitscale"
DATASETS = "datasets.yaml"
DEVICES = ("auto", "cpu", "cuda", "xla")


@dataclass(frozen=True)
class Settings:
    """What a driver and its workers need to know. Plain text and numbers, so that it travels to any worker."""

    store_url: str
    folder: Path
    """For checkpoints and logs; every worker must see it."""
    datasets: Path
    """The user's list of data sets; every worker must see it. It need not exist."""
    lease_seconds: float = 60.0
    """A worker that is silent for so long has lost its run. It renews three times as often."""
    checkpoint_seconds: float = 20.0
    device: str = "auto"
    """What workers compute on, one of `DEVICES`. `auto` is a GPU or TPU where the study asks for one, else the CPU."""
    any_numerics: bool = False

    @property
    def checkpoints(self) -> Path:
        """Root of the checkpoint paths that the store holds."""
        return self.folder / "checkpoints"

    @property
    def logs(self) -> Path:
        """Root of the log paths that the store holds."""
        return self.folder / "logs"


def settings(store: str | None, folder: Path | None, datasets: Path | None = None) -> Settings:
    """Flags over `VITSCALE_STORE`, `VITSCALE_FOLDER` and `VITSCALE_DATASETS` over the nearest `.vitscale` folder.

    That is the nearest above the working folder, or else the one in it; nothing is created here.
    """
    given = folder or (Path(os.environ["VITSCALE_FOLDER"]) if os.environ.get("VITSCALE_FOLDER") else None)
    place = (given or _nearest_folder(Path.cwd())).absolute()
    url = store or os.environ.get("VITSCALE_STORE") or f"sqlite:///{place / 'store.db'}"
    listed = datasets or Path(os.environ.get("VITSCALE_DATASETS") or place / DATASETS)
    return replace(Settings(store_url=_absolute(url), folder=place, datasets=listed.absolute()), **_tuned())


def _absolute(url: str) -> str:
    """A SQLite URL with a relative path would name another file in a worker's folder."""
    begin, slashes, path = url.partition(":///")
    if begin.startswith("sqlite") and slashes and path and not path.startswith(("/", ":")):
        return f"{begin}{slashes}{Path.cwd() / path}"
    return url


def _nearest_folder(start: Path) -> Path:
    for above in (start, *start.parents):
        if (above / FOLDER).is_dir():
            return above / FOLDER
    return start / FOLDER


def _tuned() -> dict[str, Any]:
    """What unusual sites, and tests, set through the environment."""
    found: dict[str, Any] = {}
    if device := os.environ.get("VITSCALE_DEVICE"):
        if device not in DEVICES:
            raise ValueError(f"VITSCALE_DEVICE is '{device}'; valid: {', '.join(DEVICES)}")
        found["device"] = device
    for name in ("lease_seconds", "checkpoint_seconds"):
        if text := os.environ.get(f"VITSCALE_{name.upper()}"):
            try:
                found[name] = float(text)
            except ValueError:
                raise ValueError(f"VITSCALE_{name.upper()} is no number of seconds: '{text}'") from None
    return found
