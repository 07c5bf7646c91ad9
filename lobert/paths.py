"""Where LoBERT's own files are; light, so that a typo on the command line is answered before torch is loaded."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The folder of configurations: beside the package in a checkout, inside it when installed."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"
