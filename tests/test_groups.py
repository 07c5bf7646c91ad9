"""Runs that differ by their seed alone, and what makes two of them incomparable."""

import random
import statistics
from dataclasses import replace
from typing import Any

import pytest
from test_results import GROUP, RECORD

from lobert.results import Record, RunGroup, differences, group_records, protocol


def seeds(*numbers: int, **changes: Any) -> list[Record]:
    return [replace(RECORD, seed=number, **changes) for number in numbers]


APART = [  # what keeps two runs in two groups
    {"task": "RTE"},
    {"encoder": "minilm"},
    {"decomp": "svd"},
    {"objective": "loss"},
    {"allocate": "greedy"},
    {"order": "sequential"},
    {"budget": "macs"},
    {"scope": "model"},
    {"refit_head": True},
    {"keep": 0.5},
    {"init": "pretrained"},
    {"student_layers": 1},
    {"kd": "pkd"},
    {"metric": "f1"},
    {"train_examples": 1000},
    {"max_length": 64},
    {"data": {"train": "aa", "validation": "cc"}},
    {"teacher": {"epochs": 3, "seed": 1}},
    {"teacher_fingerprint": "c"},
    {"epochs": 5},
    {"batch_size": 16},
    {"learning_rate": 2e-5},
    {"precision": "bf16-mixed"},
    {"alpha": 0.7},
    {"temperature": 4.0},
    {"beta": 10.0},
    {"normalize": False},
    {"overrides": ["decomp.damping=0.01"]},
    {"overrides": ["++student.warmup=0.2"]},
]
TOGETHER = [  # what does not
    {"seed": 1},
    {"score": 0.1, "error": None},
    {"device": "another", "versions": {"torch": "3"}, "commit": "abc"},
    {"config_hash": "other", "student_path": "elsewhere", "created": "2027-01-01T00:00:00+00:00"},
    {"seconds": {}, "found": [], "latency": None},
    {
        "overrides": [
            "seed=3",
            "task.data_dir=x",
            "output_dir=y",
            "hydra/launcher=joblib",
            "+trainer.x=1",
            "stage=predict",
        ]
    },
    {"groups": []},  # keep was given: ranks follow from it
]


@pytest.mark.parametrize("change", APART, ids=str)
def test_what_is_not_the_seed_keeps_runs_apart(change: dict[str, Any]) -> None:
    assert len(group_records([RECORD, replace(RECORD, seed=1, **change)])) == 2


@pytest.mark.parametrize("change", TOGETHER, ids=str)
def test_what_changes_no_score_does_not(change: dict[str, Any]) -> None:
    assert len(group_records([RECORD, replace(RECORD, **{"seed": 1, **change})])) == 1


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [
        ({}, {}, 1),
        ({}, {"groups": [{**GROUP, "rank": 8}]}, 2),
        ({"allocate": "greedy"}, {"allocate": "greedy", "groups": [{**GROUP, "rank": 8}]}, 1),  # drawn anew
        (
            {"allocate": "greedy", "overrides": ["decomp.plan=a.yaml"]},
            {"allocate": "greedy", "overrides": ["decomp.plan=a.yaml"], "groups": [{**GROUP, "rank": 8}]},
            2,
        ),
    ],
)
def test_given_ranks_keep_runs_apart(first: dict[str, Any], second: dict[str, Any], groups: int) -> None:
    records = [replace(RECORD, keep=None, **first), replace(RECORD, keep=None, seed=1, **second)]
    assert len(group_records(records)) == groups


def test_every_run_is_in_one_group_and_the_order_does_not_matter() -> None:
    records = [*seeds(0, 1, 2), *seeds(0, 1, decomp="svd"), *seeds(5, epochs=9)]
    shuffled = random.Random(0).sample(records, len(records))
    as_sets = [
        {(g.first.decomp, g.first.epochs, *g.seeds) for g in group_records(some)} for some in (records, shuffled)
    ]
    assert as_sets == [{("tucker_4d", 3, 0, 1, 2), ("svd", 3, 0, 1), ("tucker_4d", 9, 5)}] * 2


def test_a_seed_run_twice_counts_once_and_the_later_is_kept() -> None:
    later = replace(RECORD, score=0.5, created="2026-02-01T00:00:00+00:00", versions={})
    group = group_records([later, RECORD, *seeds(1)])[0]
    assert group.seeds == [0, 1]
    assert group.first is later
    assert group.repeats == (RECORD,)


@pytest.mark.parametrize("numbers", [[0.5], [0.5, 0.75], [0.25, None, 1.0, 0.5]])
def test_a_statistic_is_over_the_runs_that_have_the_number(numbers: list[float | None]) -> None:
    group = RunGroup(tuple(replace(RECORD, seed=seed, score=number) for seed, number in enumerate(numbers)))
    there = [number for number in numbers if number is not None]
    statistic = group.statistic(lambda record: record.score)
    assert statistic is not None
    assert statistic.mean == pytest.approx(sum(there) / len(there))
    assert statistic.count == len(there)
    assert statistic.deviation == (statistics.stdev(there) if len(there) > 1 else None)
    assert group.single == (len(numbers) == 1)


def test_there_is_no_statistic_of_no_number() -> None:
    assert RunGroup(tuple(seeds(0, 1, beta=None))).statistic(lambda record: record.beta) is None


DIFFERENT = [
    ({}, {"seed": 4, "decomp": "svd", "keep": 0.1}, ""),
    ({}, {"epochs": 5}, "epochs 3 / 5"),
    ({}, {"learning_rate": 2e-5, "beta": 100.0}, "learning_rate 3e-05 / 2e-05; beta – / 100"),
    ({}, {"normalize": False}, "normalize true / false"),
    ({}, {"teacher": {"epochs": 5, "seed": 0}, "teacher_fingerprint": "x"}, "teacher epochs 3 / 5"),
    ({}, {"teacher": {"path": "mine"}}, "teacher epochs 3 / –; teacher seed 0 / –; teacher path – / mine"),
    ({}, {"teacher_fingerprint": "x"}, "teacher weights ba9876543210 / x"),
    ({}, {"train_examples": 50, "data": {"train": "cc", "validation": "bb"}}, "train_examples 3668 / 50"),
    ({}, {"data": {"train": "aa", "validation": "cc"}}, "data validation bb / cc"),
    ({}, {"kd": "none", "alpha": 0.0, "epochs": 5}, "epochs 3 / 5"),  # each kd has weights of its own
    ({}, {"epochs": 0, "kd": "untrained", "learning_rate": 1.0}, ""),
    ({"overrides": ["student.warmup=0.2"]}, {}, "student.warmup 0.2 / –"),
]


@pytest.mark.parametrize(("first", "second", "told"), DIFFERENT)
def test_differences_are_told_in_words_and_once(first: dict[str, Any], second: dict[str, Any], told: str) -> None:
    a, b = replace(RECORD, **first), replace(RECORD, **second)
    assert differences(a, b) == told
    assert differences(a, a) == differences(b, b) == ""
    assert differences(b, a).count("/") == told.count("/")


def test_the_protocol_of_what_is_not_trained_has_no_training() -> None:
    assert protocol(RECORD)["epochs"] == 3
    assert not {"epochs", "learning_rate", "alpha"} & protocol(replace(RECORD, epochs=0)).keys()
