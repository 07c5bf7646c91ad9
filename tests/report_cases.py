"""Runs, curves and anatomies that the tests of the report are made of."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from test_results import RECORD

from lobert.results import Record, write_record

HOSTILE = '</script><b>bold & "quoted" <!-- {{data}} $x$ é \u2028'
TERMS = ("train/labels", "train/loss", "val/accuracy")


def run(**changes: Any) -> Record:
    """A run of MRPC; what is not given is that of the base record."""
    return replace(RECORD, **changes)


def layer_drop(layers: int, **changes: Any) -> Record:
    sizes = {"encoder_parameters": 20_000 * layers, "keep_encoder": 0.2 * layers, "keep_targets": 1.0, "keep": None}
    return run(decomp="none", groups=[], student_layers=layers, **sizes, **changes)


def write_curves(folder: Path, steps: int) -> None:
    rows = [f"{step},0,{name},{1 / (step + place + 1)}" for step in range(steps) for place, name in enumerate(TERMS)]
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "metrics.csv").write_text("\n".join(["step,epoch,name,value", *rows]) + "\n")


def cells(**changes: Any) -> list[dict[str, Any]]:
    layered = [
        {"layer": layer, "role": role, "group": f"{role}s", "error": 0.25 * layer, "output_error": 0.1, "score": 0.78,
         "agreement": 0.9, "divergence": 0.02}
        for layer in (0, 1)
        for role in ("query", "output")
    ]  # fmt: skip
    alone = {"layer": None, "role": "pooler", "group": "pooler", "error": 0.5, "output_error": None, "score": None}
    return [*layered, {**alone, "agreement": None, "divergence": None, **changes}]


def anatomy(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1, "task": "MRPC", "encoder": "tiny", "decomp": "svd", "keep": 0.25, "metric": "accuracy",
        "objective": "weights", "examples": 12, "dev_examples": 408,
        "teacher_score": 0.8, "teacher_fingerprint": "ab", "cells": cells(), **changes,
    }  # fmt: skip


def write_anatomy(root: Path, content: Any, name: str = "one") -> Path:
    path = root / "artefacts" / "anatomy" / name / "anatomy.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_runs(root: Path, records: list[Record], curves: int = 0) -> Path:
    for number, record in enumerate(records):
        write_record(root / "runs" / f"run{number}" / "result.json", record)
        if curves:
            write_curves(root / "runs" / f"run{number}", curves)
    return root


SEEDS = [run(seed=seed, score=score) for seed, score in enumerate([0.7, 0.72, 0.74])]
