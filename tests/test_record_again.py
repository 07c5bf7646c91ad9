"""A run that is made again where its record is broken."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_pipeline import run_here, the_record

from lobert.results.record import RECORD_FILE
from lobert.training.finetune import FineTuner


@pytest.mark.parametrize("scores_kept", [True, False], ids=["", "a student from before scores were kept"])
def test_the_same_command_evaluates_anew_and_sets_the_broken_record_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scores_kept: bool
) -> None:
    """The scores that are kept are those of the student as it is loaded."""
    run_here(tmp_path)
    first = the_record(tmp_path)
    path = next(tmp_path.rglob(RECORD_FILE))
    whole = path.read_text()
    path.write_text(whole.replace('"seed": 0', '"seed": 1'))
    monkeypatch.setattr(FineTuner, "training_step", None)  # training again would fail
    if not scores_kept:
        monkeypatch.setattr("lobert.stages.evaluate.kept_scores", lambda facts: None)
    run_here(tmp_path)
    again = the_record(tmp_path)
    unlike = {"seconds": {}, "found": [], "created": "", "latency": None}
    assert replace(again, **unlike) == replace(first, **unlike)
    assert "set aside as result.broken.json" in caplog.text
    assert path.with_name("result.broken.json").exists()
    written = path.read_bytes()
    run_here(tmp_path)
    assert path.read_bytes() == written
