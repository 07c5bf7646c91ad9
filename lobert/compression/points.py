"""The named points of `conf/decomp`, from their settings to the parts of a plan."""

from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from lobert.compression.grouping import HeadsName, Neurons, Part, check_keep
from lobert.errors import LobertError, suggest
from lobert.factorizations import RankSetting
from lobert.paths import conf_dir


def parts_from_settings(decomp: Mapping[str, Any]) -> list[Part]:
    """The parts of a `decomp` node; `keep`, `neurons` and `heads` hold for all of them, its `rank` for the only one.

    Raises LobertError where a rank is given for several parts at once.
    """
    nodes = {name: dict(node) for name, node in decomp.items() if isinstance(node, Mapping)}
    keep, rank = decomp.get("keep"), decomp.get("rank")
    if rank is not None and len(nodes) != 1:
        choices = " or ".join(f"decomp.{name}.rank" for name in nodes) or "another decomp: this one compresses nothing"
        raise LobertError(f"decomp.rank={rank} is for one compression and this decomp has {len(nodes)}: set {choices}")
    for node in nodes.values():
        if rank is not None:
            node["rank"] = rank
        for setting in ("keep", "neurons", "heads"):
            if decomp.get(setting) is not None and node.get(setting) is None:
                node[setting] = decomp[setting]
        for setting in ("roles", "stack"):  # a single one may be written without brackets
            if isinstance(node[setting], str):
                node[setting] = [node[setting]]
        node["name"] = node["name"] or free_name(**node)
    check_keep(keep)
    return [Part(**node) for node in nodes.values()]


def free_name(roles: Sequence[str], stack: Sequence[str], factorization: str, cut: bool = False, **_: Any) -> str:
    """Name of a part that no point has named: "query_key_value_by_layer_cp"."""
    return "_".join([*roles, "by", *(stack or ["matrix"]), *(["squares"] if cut else []), factorization])


def named_parts(
    names: str | Sequence[str],
    keep: float | None = None,
    rank: RankSetting | None = None,
    neurons: Neurons | None = None,
    heads: HeadsName | None = None,
) -> list[Part]:
    """The parts of named points: "falcon_4d", or ["tucker_4d", "ffn_svd"] together."""
    chosen = [names] if isinstance(names, str) or not isinstance(names, Sequence) else list(names)
    known = {path.stem for path in (conf_dir() / "decomp").glob("*.yaml")}
    for name in chosen:
        if name not in known:
            raise LobertError(f"no decomp '{name}': {suggest(str(name), known)}")
    asked = {"keep": keep, "rank": rank, "neurons": neurons, "heads": heads}
    return parts_from_settings({**compose_points(chosen), **asked})


def compose_points(names: list[str]) -> dict[str, Any]:
    """The `decomp` node of these points, composed apart from any Hydra application that may be running."""
    application = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            settings = hydra.compose("config", [f"decomp=[{','.join(names)}]"])
    except HydraException as error:
        raise LobertError(f"decomp {' and '.join(names)} do not go together: {' '.join(str(error).split())}") from None
    finally:
        GlobalHydra.instance().hydra = application
    decomp: Any = OmegaConf.to_container(settings.decomp, resolve=True)
    return dict(decomp)


def decomp_name(parts: Sequence[Part]) -> str:
    """Short name of a compression: its parts' names, each with the size that was asked of it."""
    return "+".join(part.title + asked_size(part) for part in parts) or "none"


def asked_size(part: Part) -> str:
    """`@0.25` for a share, `@64` or `@2-8-96-96` for a rank, nothing for the default."""
    if part.keep is not None:
        return f"@{part.keep:g}"
    if part.rank is not None:
        entries = [part.rank] if isinstance(part.rank, int | float | str) else part.rank
        return "@" + "-".join(str(entry).replace("/", "_") for entry in entries)
    return ""
