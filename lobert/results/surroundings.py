"""What a run was made with: versions, device, commit."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # tables are made without loading it

LIBRARIES = ("torch", "pytorch-lightning", "transformers", "hydra-core", "tensorly", "lobert")


def environment(device: "torch.device") -> dict[str, Any]:
    """The fields `versions`, `device` and `commit` of a record made now, by a run on `device`."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    return {
        "versions": versions | {name: _version(name) for name in LIBRARIES},
        "device": _device_name(device),
        "commit": _commit(Path(__file__).resolve().parents[2]),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, threads: {torch.get_num_threads()}"


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit(root: Path) -> str | None:
    """Commit of the checkout at `root`, with `-dirty` where tracked files differ; None outside a checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None  # installed, perhaps inside some other project's repository
    commit = _git(root, "rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
