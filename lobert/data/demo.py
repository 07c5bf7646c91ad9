"""The demo task: do two short sentences say the same? Made up from a fixed seed, so it needs no files.

The first sentence states a likely fact about two things in two roles (chef and pie, first and later, large and small);
the second puts it in another way, or swaps the roles. Either way the words are the same, so that only their order and
the grammar tell, and a bag of words is at chance. Who bakes whom is what an encoder knows from its pretraining: dev
asks about pairs of things that no training example has.
"""

import random
from dataclasses import dataclass
from itertools import product

SEED = 2020
SIZES = {"train": 1600, "validation": 500}
TURNED = 0.3  # share of second sentences that name the two in the other order
TIMES = ("", "on Monday", "on Friday", "last week", "this morning", "in April", "yesterday", "last night")


@dataclass(frozen=True)
class Family:
    """Ways to put one kind of fact.

    The first sentence of a pair is `plain`, the second one of `kept` ({x} before {y}) or of `turned` ({y} before {x}).
    Each row of `facts` is "{v} : {w} : choices of {x} : choices of {y}"; of synonyms, separated by a slash, each
    sentence takes one.
    """

    plain: str
    kept: tuple[str, ...]
    turned: tuple[str, ...]
    facts: tuple[str, ...]
    timed: bool = True


FAMILIES = (
    Family(
        plain="the {x} {v} the {y}",
        kept=("it was the {x} that {v} the {y}", "the {x} was the one that {v} the {y}"),
        turned=(
            "the {y} was {v} by the {x}",
            "it was the {y} that the {x} {v}",
            "it was the {y} that was {v} by the {x}",
        ),
        facts=(
            "baked/prepared : : chef baker cook : cake pie loaf",
            "repaired/fixed : : mechanic plumber engineer : engine pump heater",
            "painted/sketched : : artist painter student : portrait landscape mural",
            "purchased/bought : : customer tourist collector : lamp carpet necklace",
            "played/performed : : pianist violinist band : sonata waltz melody",
            "cleaned/washed : : maid janitor servant : floor window kitchen",
            "designed/planned : : architect builder duke : bridge tower stadium",
            "harvested/gathered : : farmer peasant villager : wheat corn barley",
            "read/studied : : scholar teacher monk : book letter poem",
            "tasted/sipped : : guest sailor waiter : coffee wine juice",
            "arrested/captured : : officer sheriff detective : thief burglar smuggler",
            "treated/cured : : doctor nurse surgeon : patient invalid fever",
            "chased/hunted : : cat fox wolf : mouse rabbit squirrel",
            "taught/instructed : : teacher tutor professor : pupil novice beginner",
        ),
    ),
    Family(
        plain="the {x} {v} the {y} a {w}",
        kept=("the {x} {v} a {w} to the {y}", "it was the {x} that {v} the {y} a {w}"),
        turned=("the {y} was {v} a {w} by the {x}", "the {y} got a {w} from the {x}"),
        facts=(
            "paid : wage/salary : boss employer company : worker servant clerk",
            "awarded : prize/medal : jury judge king : winner athlete soldier",
            "lent : sum/loan : bank lender banker : borrower debtor farmer",
            "served : meal/dinner : waiter chef hotel : guest customer tourist",
        ),
    ),
    Family(
        plain="the {x} {v} before the {y}",
        kept=("the {x} {v} earlier than the {y}", "it was the {x} that {v} before the {y}"),
        turned=("the {y} {v} after the {x}", "the {y} {v} later than the {x}"),
        facts=(
            "came/arrived : : breakfast dawn morning : supper sunset night",
            "came/appeared : : seed bud egg : fruit harvest bird",
            "came/appeared : : question problem illness : answer solution recovery",
        ),
        timed=False,
    ),
    Family(
        plain="the {x} is {v} than the {y}",
        kept=("it is the {x} that is {v} than the {y}", "the {x} is the {v} one and the {y} the {w} one"),
        turned=("the {y} is {w} than the {x}", "compared with the {y}, the {x} is {v}"),
        facts=(
            "larger/bigger : smaller : elephant whale horse : mouse ant bee",
            "faster/quicker : slower : jet rocket train : snail turtle bicycle",
            "older : younger : grandfather veteran widow : baby toddler boy",
            "hotter/warmer : colder : sun fire oven : ice snow glacier",
            "heavier : lighter : rock truck piano : feather leaf balloon",
            "richer : poorer : king banker duke : beggar peasant orphan",
        ),
        timed=False,
    ),
)


def _couples(row: str, split: str) -> list[dict[str, str]]:
    """A row's ways to fill the templates: each third couple of things is for dev alone."""
    v, w, first, second = (cell.strip() for cell in row.split(":"))
    couples = product(enumerate(first.split()), enumerate(second.split()))
    return [
        {"v": v, "w": w, "x": x, "y": y} for (i, x), (j, y) in couples if ((i + j) % 3 == 0) == (split == "validation")
    ]


def _say(rng: random.Random, template: str, slots: dict[str, str], time: str) -> str:
    clause = template.format(**{slot: rng.choice(choices.split("/")) for slot, choices in slots.items()})
    if time:
        clause = rng.choice((f"{clause} {time}", f"{time} {clause}"))
    return f"{clause[0].upper()}{clause[1:]}."


def _pair(rng: random.Random, family: Family, split: str, same: bool) -> tuple[str, str]:
    """A fact, and the same fact in other words, or with the roles swapped."""
    slots = rng.choice(_couples(rng.choice(family.facts), split))
    time = rng.choice(TIMES) if family.timed else ""
    template = rng.choice(family.turned if rng.random() < TURNED else family.kept)
    told = slots if same else {**slots, "x": slots["y"], "y": slots["x"]}
    return _say(rng, family.plain, slots, time), _say(rng, template, told, time)


def generate() -> dict[str, dict[str, list[str] | list[int]]]:
    """Columns text_a, text_b, label of the splits train and validation: always the same, classes balanced."""
    rng = random.Random(SEED)
    splits: dict[str, dict[str, list[str] | list[int]]] = {}
    for split, size in SIZES.items():
        labels = [i % 2 for i in range(size)]
        rng.shuffle(labels)
        weights = [len(family.facts) for family in FAMILIES]
        families = rng.choices(FAMILIES, weights, k=size)
        pairs = [_pair(rng, family, split, bool(label)) for family, label in zip(families, labels, strict=True)]
        first, second = (list(texts) for texts in zip(*pairs, strict=True))
        splits[split] = {"text_a": first, "text_b": second, "label": labels}
    return splits
