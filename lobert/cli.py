"""The command line of `train.py`: a user's mistake gets one sentence and exit code 2, a bug keeps its traceback."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf import errors as omegaconf_errors

from lobert.errors import LobertError, first_line, suggest
from lobert.signals import exit_code, raise_on_sigterm

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130
MULTIRUN = ("-m", "--multirun")

# Reading a key that is not there is missing from this list: once the job runs, that is a bug of ours.
SETTING_ERRORS = (
    omegaconf_errors.InterpolationResolutionError,
    omegaconf_errors.MissingMandatoryValue,
    omegaconf_errors.ValidationError,
    omegaconf_errors.GrammarParseError,
)


@dataclass
class Failures:
    """What went wrong in the jobs of this process's sweep."""

    lines: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    code: int = 0


_failures = Failures()


def guard(main: Callable[[], Any], conf_dir: Path) -> int:
    """Run a Hydra entry point and return the exit code: 0, 2 for a user's mistake, 1 for a sweep with a bug.

    An interruption is 130 after Ctrl-C and 143 after SIGTERM.

    Raises:
        Exception: a bug in a single run, as it was raised.
    """
    global _failures
    _failures = Failures()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints errors itself and exits
    sys.argv[1:] = normalize_arguments(sys.argv[1:], conf_dir)
    raise_on_sigterm()
    try:
        main()
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit
            return _interrupted(stop.__context__)
        raise
    except Exception as error:
        if not any(error is known for known in _failures.errors):
            sentence = explain(error, conf_dir)
            if sentence is None:
                raise
            _say(f"error: {sentence}")
            return USER_ERROR
    return _close_sweep()


def job(run: Callable[[DictConfig], float | None], cfg: DictConfig) -> float | None:
    """Call `run(cfg)` as one Hydra job.

    In a sweep, a failure is said at once and raised to Hydra, which goes on with the other jobs: an exit would end the
    sweep. A single run exits with the sentence.
    """
    try:
        return run(cfg)
    except Exception as error:
        sentence = _explain_job(error)
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            _record_failure(error, sentence)
            raise
        if sentence is None:
            raise
        _say(f"error: {sentence}")
        raise SystemExit(USER_ERROR) from None


def normalize_arguments(argv: Sequence[str], conf_dir: Path) -> list[str]:
    """Spell task names as GLUE does (`task=mrpc,sst2` becomes `task=MRPC,SST-2`), and put `-m` first.

    Hydra reads a flag between settings, but refuses one that has settings on both sides.
    """
    tasks = {_fold(path.stem): path.stem for path in (conf_dir / "task").glob("*.yaml")}

    def normalize(argument: str) -> str:
        key, _, value = argument.partition("=")
        return f"task={','.join(tasks.get(_fold(n), n) for n in value.split(','))}" if key == "task" else argument

    flags = [argument for argument in argv if argument in MULTIRUN]
    return flags + [normalize(argument) if "=" in argument else argument for argument in argv if argument not in flags]


def explain(error: Exception, conf_dir: Path) -> str | None:
    """The sentence that answers a user's mistake, or None where `error` is none of theirs."""
    match error:
        case OverrideParseException():
            return _malformed(error.override)
        case MissingConfigException():
            return _missing_option(error, conf_dir)
        case HydraException() if not isinstance(error, InstantiationException):
            return _composition(error, conf_dir)
    return _explain_job(error)


def _explain_job(error: Exception) -> str | None:
    if isinstance(error, LobertError):
        return str(error)
    if isinstance(error, SETTING_ERRORS):
        return f"setting '{error.full_key}': {first_line(error)}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return None


def _malformed(override: str) -> str:
    if "=" not in override and not override.startswith("~"):
        return f"'{override}' is not a setting: type key=value"
    if any(override.count(a) != override.count(b) for a, b in ("[]", "{}", "()")):
        return f"cannot read '{override}': its brackets do not match"
    key, _, value = override.partition("=")
    return f"""cannot read '{override}': quote a value that holds special characters, as in '{key}="{value}"'"""


def _missing_option(error: MissingConfigException, conf_dir: Path) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = error.options or _options(conf_dir / group)
    return f"no {group or 'configuration'} '{name}': {suggest(name, options)}"


def _options(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _composition(error: HydraException, conf_dir: Path) -> str:
    text, cause = _one_line(error), error.__cause__
    if isinstance(cause, omegaconf_errors.OmegaConfBaseException):
        if isinstance(cause, omegaconf_errors.ConfigAttributeError | omegaconf_errors.ConfigKeyError):
            return _unknown_setting(str(cause.full_key), cause.parent_node, conf_dir)
        return f"{text} {first_line(cause)}"
    if twice := re.match(r"Multiple values for decomp/\w+@decomp\.(\w+)\.", text):
        return f"two of the compressions in decomp=[...] are for the same weights ({twice[1]}): choose one of them"
    if axis := re.match(r"Could not override '(decomp/(?:grouping|factorization))'", text):
        return f"'{axis[1]}' is chosen freely in decomp=free only: type decomp=free {axis[1]}=... as well"
    if several := re.match(r"Ambiguous value for argument '(.+?)=(.+)' 1\.", text):
        key, values = several.groups()
        return f"'{key}={values}' names several values: add -m to run each, or type {key}=[{values}] for a list"
    return text


def _unknown_setting(key: str, level: DictConfig, conf_dir: Path) -> str:
    section, _, leaf = key.rpartition(".")
    names = {str(name) for name in level if name != "hydra"}
    if not section:
        names |= {path.name for path in conf_dir.iterdir() if any(path.glob("*.yaml"))}
    if not names:
        group = section.partition(".")[0]
        options = _options(conf_dir / group)
        hint = f"; another {group} may have it: {', '.join(options)}" if options else ""
        return f"no setting '{key}': there is nothing to set inside '{section}'{hint}"
    prefix = f"{section}." if section else ""
    deeper = [path for path in _paths(OmegaConf.to_container(level)) if path.endswith(f".{leaf}")]
    near = [min(deeper, key=len)] if deeper else get_close_matches(leaf, names, n=1, cutoff=0.6)
    hint = f"did you mean '{prefix}{near[0]}'? " if near else ""
    return f"no setting '{key}': {hint}Choices: {', '.join(prefix + name for name in sorted(names))}"


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    for name, child in node.items() if isinstance(node, dict) else ():
        if prefix or name != "hydra":
            yield f"{prefix}{name}"
            yield from _paths(child, f"{prefix}{name}.")


def _record_failure(error: Exception, sentence: str | None) -> None:
    hydra = HydraConfig.get()
    if sentence is None:
        traceback.print_exception(error)
    reason = sentence or f"{type(error).__name__}: {first_line(error)}"
    _failures.lines.append(f"job {hydra.job.num} ({' '.join(hydra.overrides.task)}): {reason}")
    _failures.errors.append(error)
    _failures.code = BUG if sentence is None else _failures.code or USER_ERROR
    _say(f"error: {_failures.lines[-1]}")


def _close_sweep() -> int:
    if _failures.lines:
        _say("\n".join([f"{len(_failures.lines)} failed; the same command runs them again:", *_failures.lines]))
    return _failures.code


def _interrupted(stop: KeyboardInterrupt) -> int:
    _close_sweep()
    _say("interrupted: run the same command again to continue")
    return exit_code(stop)


def _fold(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).partition("Config search path")[0].split())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
