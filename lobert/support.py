"""`python -m lobert.support docs/architectures.md`: what each known encoder can have, as tables written into a page."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from lobert.compression.plan import Part, make_plan
from lobert.compression.points import named_parts
from lobert.encoders.architectures import ARCHITECTURES, Architecture
from lobert.encoders.roles import no_order_of_layers
from lobert.errors import LobertError
from lobert.paths import conf_dir
from lobert.storage.artefacts import write_atomic

BEGIN, END = "<!-- tables by python -m lobert.support: begin -->\n", "<!-- end -->\n"
YES = "✓"
Points = Mapping[str, Sequence[Part]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or put them between the two marks of a file; 1 for a file that has none."""
    parser = argparse.ArgumentParser(prog="python -m lobert.support", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="page to write into; without one the tables are printed")
    options = parser.parse_args(arguments)
    try:
        page = options.file and options.file.read_text(encoding="utf-8")
        text = tables(points())
        if options.file is None:
            print(text, end="")
        else:
            write_atomic(options.file, inserted(page, text, options.file))
    except (OSError, UnicodeDecodeError) as error:
        print(f"error: {options.file} cannot be read or written: {error}", file=sys.stderr)
        return 1
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def inserted(page: str, text: str, path: Path) -> str:
    """The page with `text` between its marks; LobertError where they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LobertError(f"{path} has no place for the tables: put the lines {BEGIN.strip()} and {END.strip()} there")
    return f"{before}{BEGIN}{text}{END}{after}"


def points() -> dict[str, list[Part]]:
    """The compressions of `conf/decomp` by name, without those that are another name of one, and `none`."""
    names = sorted(path.stem for path in (conf_dir() / "decomp").glob("*.yaml"))
    found = {name: named_parts(name) for name in names}
    return {name: parts for name, parts in found.items() if parts and (name == "free" or parts[0].name == name)}


def rows() -> dict[str, Architecture]:
    """The rows of the table of architectures by the `model_type`s that they are for: "roberta, camembert"."""
    kinds: dict[int, list[str]] = {}
    for kind, row in ARCHITECTURES.items():
        kinds.setdefault(id(row), []).append(kind)
    return {", ".join(names): ARCHITECTURES[names[0]] for names in kinds.values()}


def tables(of: Points) -> str:
    """The matrix of compressions with its notes, and where each role is."""
    return f"{matrix(of)}\n{places()}"


def matrix(of: Points) -> str:
    """Which compression each architecture can have; a number where it cannot leads to the reason."""
    models = {kinds: skeleton_of(kinds.split(", ")[0]) for kinds in rows()}
    reasons = {name: [refusal(model, parts) for model in models.values()] for name, parts in of.items()}
    orders = [no_order_of_layers(model) for model in models.values()]
    reasons["decomp.order=sequential"] = [
        f"it goes from layer to layer, and {order}" if order else None for order in orders
    ]
    notes = list(dict.fromkeys(reason for line in reasons.values() for reason in line if reason))
    cells = [[f"`{name}`", *(f"({notes.index(r) + 1})" if r else YES for r in line)] for name, line in reasons.items()]
    numbered = "".join(f"\n({number}) {note}\n" for number, note in enumerate(notes, 1))
    return markdown(["", *models], cells) + numbered


def skeleton_of(kind: str) -> PreTrainedModel:
    """A classifier of the library's default sizes, shapes alone, with no more layers than a plan needs to look at."""
    config = AutoConfig.for_model(kind)
    if not ARCHITECTURES[kind].repeats:
        config = AutoConfig.for_model(kind, num_hidden_layers=2)
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def refusal(model: PreTrainedModel, parts: Sequence[Part]) -> str | None:
    """Why a model cannot have a compression, without the name of the part; None where it can."""
    try:
        make_plan(model, parts)
    except LobertError as error:
        prefix = next((f"{part.name}: " for part in parts if str(error).startswith(f"{part.name}: ")), "")
        return str(error).removeprefix(prefix)
    return None


def places() -> str:
    """Where the weight of each role is; `*` is the number of the layer."""
    found = {kinds: places_of(row) for kinds, row in rows().items()}
    roles = list(dict.fromkeys(role for paths in found.values() for role in paths))
    cells = [
        [kinds, *(f"`{paths[role]}`" if role in paths else "" for role in roles)] for kinds, paths in found.items()
    ]
    return markdown(["", *roles], cells)


def places_of(row: Architecture) -> dict[str, str]:
    inside = {role: f"{row.layers}.*.{path}" for role, path in row.roles.items()}
    return {**inside, **row.singles, **row.heads, **row.tables}


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])


if __name__ == "__main__":
    sys.exit(main())
