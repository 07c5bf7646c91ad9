"""Laws of the generated task: always the same, balanced, unseen pairs in dev, and of no use to a bag of words."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from lobert.data import Task, demo, fingerprint_examples, load_examples
from lobert.data.demo import FAMILIES, SIZES, Family, generate

ROOT = Path(__file__).parents[1]
SPLITS = generate()


def rows(split: str) -> list[tuple[str, str, int]]:
    data = SPLITS[split]
    return [(str(a), str(b), int(y)) for a, b, y in zip(data["text_a"], data["text_b"], data["label"], strict=True)]


def words(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+", sentence.lower())


def things(split: str) -> set[frozenset[str]]:
    """The pairs of things a split speaks of."""
    known = {frozenset((c["x"], c["y"])) for f in FAMILIES for row in f.facts for c in couples(row)}
    return {pair for pair in known if any(pair <= set(words(a)) for a, _, _ in rows(split))}


def couples(row: str) -> list[dict[str, str]]:
    return [slots for split in SIZES for slots in demo._couples(row, split)]


def test_yaml_loads_the_generated_examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOBERT_DATA_DIR", str(tmp_path))  # of no concern to a generated task
    node = yaml.safe_load((ROOT / "conf" / "task" / "demo.yaml").read_text())
    del node["kd"]
    examples = load_examples(Task(**node))
    assert {split: len(data) for split, data in examples.items()} == SIZES
    assert all(data.column_names == ["text_a", "text_b", "label"] for data in examples.values())


def test_every_machine_makes_the_same() -> None:
    """Changed examples have other fingerprints, which then stand here: all scores of the demo are others, too."""
    here = [fingerprint_examples(Dataset.from_dict(columns)) for columns in generate().values()]
    assert here == ["d57f6d026292ccb1", "72d1e81326d70113"]


@pytest.mark.parametrize("split", SIZES)
def test_classes_are_balanced(split: str) -> None:
    counts = Counter(label for _, _, label in rows(split))
    assert counts[0] == counts[1] == SIZES[split] // 2


def test_dev_asks_about_unseen_pairs() -> None:
    assert not {row[:2] for row in rows("train")} & {row[:2] for row in rows("validation")}
    assert things("train")
    assert things("validation")
    assert not things("train") & things("validation")


@pytest.mark.parametrize("split", SIZES)
def test_sentences_are_short_and_whole(split: str) -> None:
    for a, b, _ in rows(split):
        for sentence in (a, b):
            assert re.fullmatch(r"[A-Z][A-Za-z ,]+\.", sentence)
            assert "  " not in sentence
            assert not re.search(r"\ba [aeiou]", sentence)
        assert a != b
        assert len(words(a)) + len(words(b)) <= 26


@pytest.mark.parametrize("family", FAMILIES)
def test_templates_name_the_two_in_the_order_they_say(family: Family) -> None:
    for templates, first, last in (((family.plain, *family.kept), "{x}", "{y}"), (family.turned, "{y}", "{x}")):
        assert all(0 <= template.index(first) < template.index(last) for template in templates)


def test_a_bag_of_words_is_at_chance() -> None:
    def bags(split: str) -> list[str]:
        return [" ".join([f"a{w}" for w in words(a)] + [f"b{w}" for w in words(b)]) for a, b, _ in rows(split)]

    counts = CountVectorizer()
    model = LogisticRegression(max_iter=500).fit(counts.fit_transform(bags("train")), SPLITS["train"]["label"])
    assert model.score(counts.transform(bags("validation")), SPLITS["validation"]["label"]) < 0.6
