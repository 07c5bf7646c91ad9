"""A command in a fork of the tests' process, which has imported all that takes long."""

import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def forked(program: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`python train.py …` in a folder, which gets what it prints, too; or `python -m …` where `program` is a module.

    For what ends before a backward pass, of which torch allows none in a fork.
    """
    said = [folder / "stdout.txt", folder / "stderr.txt"]
    child = os.fork()
    if child == 0:
        code = 1
        os.chdir(folder)
        sys.argv = [program, *arguments]
        with said[0].open("w") as sys.stdout, said[1].open("w") as sys.stderr:
            try:
                if program.endswith(".py"):
                    runpy.run_path(str(ROOT / program), run_name="__main__")
                else:
                    sys.modules.pop(program, None)  # or it is warned of
                    runpy.run_module(program, run_name="__main__", alter_sys=True)
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess([program, *arguments], code, *(path.read_text() for path in said))
