"""`python -m lobert.status outputs/`: which jobs are done, running, failed or missing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lobert.errors import LobertError
from lobert.launch.status import find_status, render_status

ALL_DONE, UNFINISHED, MISTAKE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the state of every sweep; 1 where jobs failed, were interrupted or never started."""
    parser = argparse.ArgumentParser(prog="python -m lobert.status", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs are: their output_dir")
    options = parser.parse_args(arguments)
    try:
        statuses = find_status(options.folder)
        if not statuses:
            raise LobertError(f"no job was ever started in '{options.folder}': type python train.py ...")
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    print("\n".join(render_status(status) for status in statuses), end="")
    return UNFINISHED if any(status.unfinished for status in statuses) else ALL_DONE


if __name__ == "__main__":
    sys.exit(main())
