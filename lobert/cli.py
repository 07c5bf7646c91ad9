"""The command line of `train.py`: a user's mistake gets one sentence and exit code 2, a bug keeps its traceback."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lobert.errors import first_line
from lobert.launch.attempt import Run, open_attempt
from lobert.launch.ending import USER_ERROR, close_sweep
from lobert.launch.ledger import Outcome, Values
from lobert.launch.sentences import explain, explain_job, fold
from lobert.launch.sweep import Announce, in_sweep, is_follower
from lobert.signals import exit_code, raise_on_sigterm
from lobert.startup import keep_freed_memory, loading

INTERRUPTED = 130
MULTIRUN = ("-m", "--multirun")


def guard(main: Callable[[], Any], conf_dir: Path) -> int:
    """Run a Hydra entry point and return the exit code: 0, 2 for a user's mistake, 1 for a sweep with a bug.

    An interruption is 130 after Ctrl-C and 143 after SIGTERM.

    Raises:
        Exception: a bug in a single run, as it was raised.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints errors itself and exits
    sys.argv[1:] = normalize_arguments(sys.argv[1:], conf_dir)
    Announce.begin()
    raise_on_sigterm()
    try:
        main()
    except KeyboardInterrupt as stop:
        return interrupted(stop)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
            return interrupted(stop.__context__)
        raise
    except Exception as error:
        sentence = explain(error, conf_dir)
        sweep = Announce.sweep
        if sweep is not None and sweep.entries():  # the launcher lost a process, or a search all of its jobs
            return close_sweep(sweep, sentence or f"{type(error).__name__}: {first_line(error)}", Announce.wandb)
        if sweep is not None:
            sweep.forget()
        if sentence is None:
            raise
        say(f"error: {sentence}")
        return USER_ERROR
    return close_sweep(Announce.sweep, wandb=Announce.wandb) if Announce.sweep else 0


def job(run: Run, cfg: DictConfig) -> Values:
    """Call `run(cfg)` as one Hydra job; a single one that fails by a user's mistake exits with the sentence."""
    if is_follower():
        return run(cfg).values
    try:
        return open_attempt(run, cfg).go()
    except Exception as error:
        sentence = explain_job(error)
        if sentence is None or in_sweep():
            raise
        say(f"error: {sentence}")
        raise SystemExit(USER_ERROR) from None


def run_pipeline(cfg: DictConfig) -> Outcome:
    """The stages of a run; torch is loaded here, so that a typo on the command line is answered before that."""
    keep_freed_memory()
    with loading():
        from lobert.pipeline import run

    return run(cfg)


def normalize_arguments(argv: Sequence[str], conf_dir: Path) -> list[str]:
    """Spell task names as GLUE does (`task=mrpc,sst2` becomes `task=MRPC,SST-2`), and put `-m` first.

    Hydra reads a flag between settings, but refuses one that has settings on both sides. A process that a distributed
    run has started gets the settings of one job, and is not to start that job's sweep again.
    """
    tasks = {fold(path.stem): path.stem for path in (conf_dir / "task").glob("*.yaml")}

    def normalize(argument: str) -> str:
        key, _, value = argument.partition("=")
        return f"task={','.join(tasks.get(fold(n), n) for n in value.split(','))}" if key == "task" else argument

    flags = [argument for argument in argv if argument in MULTIRUN]
    others = [argument for argument in argv if argument not in flags]
    if is_follower():
        others = [argument for argument in others if not argument.startswith("sweep=")]
    return flags + [normalize(argument) if "=" in argument else argument for argument in others]


def interrupted(stop: KeyboardInterrupt) -> int:
    """Say how to go on, and return the exit code of a process that a signal ended."""
    say("interrupted: run the same command again to continue")
    return exit_code(stop)


def say(text: str) -> None:
    """On standard error, at once."""
    print(text, file=sys.stderr, flush=True)
