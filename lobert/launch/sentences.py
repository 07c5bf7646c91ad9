"""What a user's mistake is answered with: one sentence for each error of Hydra, OmegaConf or LoBERT."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf import errors as omegaconf_errors

from lobert.errors import LobertError, first_line, sentence_of, suggest

# Reading a key that is not there is missing from this list: once the job runs, that is a bug of ours.
SETTING_ERRORS = (
    omegaconf_errors.InterpolationResolutionError,
    omegaconf_errors.MissingMandatoryValue,
    omegaconf_errors.ValidationError,
    omegaconf_errors.GrammarParseError,
)


def explain(error: Exception, conf_dir: Path) -> str | None:
    """The sentence that answers a user's mistake, or None where `error` is none of theirs."""
    match error:
        case OverrideParseException():
            return _malformed(error.override)
        case MissingConfigException():
            return _missing_option(error, conf_dir)
        case HydraException() if not isinstance(error, InstantiationException):
            return _composition(error, conf_dir)
    return explain_job(error)


def explain_job(error: Exception) -> str | None:
    """As `explain`, for what is raised once the configuration is composed."""
    if isinstance(error, LobertError):
        return str(error)
    if isinstance(error, SETTING_ERRORS):
        return f"setting '{error.full_key}': {first_line(error)}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return sentence_of(error)


def _malformed(override: str) -> str:
    if "=" not in override and not override.startswith("~"):
        return f"'{override}' is not a setting: type key=value"
    if any(override.count(a) != override.count(b) for a, b in ("[]", "{}", "()")):
        return f"cannot read '{override}': its brackets do not match"
    key, _, value = override.partition("=")
    return f"""cannot read '{override}': quote a value that holds special characters, as in '{key}="{value}"'"""


def _missing_option(error: MissingConfigException, conf_dir: Path) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    found = error.options or yaml_names(conf_dir / group)
    return f"no {group or 'configuration'} '{name}': {suggest(name, found)}"


def yaml_names(folder: Path) -> list[str]:
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
        options = yaml_names(conf_dir / group)
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).partition("Config search path")[0].split())


def fold(name: str) -> str:
    """A name without the case and the dashes that people write differently."""
    return name.strip().lower().replace("-", "").replace("_", "")
