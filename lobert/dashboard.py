"""`python -m lobert.dashboard ENTITY/PROJECT`: the dashboard of a W&B project, made at W&B, or printed with --print."""

import argparse
import json
import sys
from collections.abc import Sequence

from lobert.errors import LobertError


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the dashboard and print its address, or print what would be sent; 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        entity, project = _parts(options.project)
        print(_made(entity, project, options.task, options.print))
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _made(entity: str, project: str, task: str | None, shown: bool) -> str:
    from lobert.tracking.dashboard import dashboard, save, specification

    if shown:
        return json.dumps(specification(dashboard(entity, project, task)), indent=2)
    return f"dashboard: {save(entity, project, task)}"


def _parts(path: str) -> tuple[str, str]:
    entity, slash, project = path.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise LobertError(f"'{path}' is no project of W&B: type ENTITY/PROJECT, the user or team and its project")
    return entity, project


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lobert.dashboard", description=__doc__)
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="user or team, and project: logger.wandb.project")
    parser.add_argument("--task", help="only the runs of this task")
    parser.add_argument("--print", action="store_true", help="print the specification; needs no network, no account")
    return parser


if __name__ == "__main__":
    sys.exit(main())
