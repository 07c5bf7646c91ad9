"""Laws of artefacts: found by what they were made from, made once, never half."""

import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.utilities import rank_zero_only

from lobert.artefacts import RECIPE_FILE, Store, fingerprint, hash_files, make_folder, wait_for, write_atomic
from lobert.errors import LobertError

RECIPE: dict[str, Any] = {"task": "RTE", "seed": 1, "encoder": {"layers": 2, "name": "é", "sizes": [1, 2]}, "x": None}


def reordered(value: Any) -> Any:
    """The same mapping with its keys the other way round, at every depth."""
    return {key: reordered(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def write(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "made.txt").open("a").write(text) and None


def fail(folder: Path) -> None:
    (folder / "made.txt").write_text("half, ")
    raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- names ----


def test_a_fingerprint_does_not_see_the_order_of_keys() -> None:
    assert list(reordered(RECIPE)) != list(RECIPE)
    assert fingerprint(reordered(RECIPE)) == fingerprint(RECIPE)
    assert fingerprint(json.loads(json.dumps(RECIPE))) == fingerprint(RECIPE)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"seed": "1"}, {"seed": 1.5}, {"y": None}, {"x": False}, {"encoder": {}}], ids=str
)
def test_a_fingerprint_sees_every_change(change: dict[str, Any]) -> None:
    assert fingerprint({**RECIPE, **change}) != fingerprint(RECIPE)


def test_a_fingerprint_sees_the_order_of_a_list() -> None:
    assert fingerprint([1, 2]) != fingerprint([2, 1])


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: (folder / "a.txt").write_text("other"), False),
        (lambda folder: (folder / "a.txt").rename(folder / "c.txt"), False),
        (lambda folder: (folder / "b.txt").unlink(), False),
        (lambda folder: (folder / "more.txt").write_text(""), False),
        (lambda folder: (folder / "a.log").write_text("not asked for"), True),
        (lambda folder: (folder / "a.txt").touch(), True),
    ],
)
def test_files_are_hashed_by_name_and_content(tmp_path: Path, change: Callable[[Path], object], same: bool) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    before = hash_files(tmp_path, ("*.txt", "a*.txt"))
    change(tmp_path)
    assert (hash_files(tmp_path, ("*.txt",)) == before) is same


# ---- making ----


def test_what_is_there_is_found_and_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "store")
    path = store.make("teacher", "RTE", RECIPE, write("once"))
    assert path == store.path("teacher", "RTE", reordered(RECIPE))
    assert path == store.make("teacher", "RTE", reordered(RECIPE), fail)
    assert (path / "made.txt").read_text() == "once"
    assert json.loads((path / RECIPE_FILE).read_text()) == RECIPE
    assert store.make("teacher", "RTE", {**RECIPE, "seed": 2}, write("other")) != path


@pytest.mark.parametrize(("resume", "content"), [(True, "half, whole"), (False, "whole")])
def test_an_interrupted_build_is_no_artefact_and_goes_on_as_asked(tmp_path: Path, resume: bool, content: str) -> None:
    store = Store(tmp_path)
    path = store.path("student", "s", RECIPE)
    with pytest.raises(KeyboardInterrupt):
        store.make("student", "s", RECIPE, fail)
    assert not path.exists()
    assert path.with_name(f"{path.name}.partial").is_dir()
    assert store.make("student", "s", RECIPE, write("whole"), resume=resume) == path
    assert (path / "made.txt").read_text() == content
    assert [name for name in names(path.parent) if "partial" in name] == []


def race(root: Path, me: str, recipe: dict[str, Any]) -> None:
    """Ask for an artefact whose build lasts until both processes have asked."""

    def build(folder: Path) -> None:
        deadline = time.monotonic() + 60
        while len(list(root.glob("here-*"))) < 2:
            assert time.monotonic() < deadline, "the other process never came"
            time.sleep(0.01)
        time.sleep(0.3)  # and the other one has reached the lock
        with (root / "builds").open("a") as file:
            file.write(me)
        write(me)(folder)

    (root / f"here-{me}").touch()
    path = Store(root).make("teacher", "t", recipe, build)
    (root / f"found-{me}").write_text((path / "made.txt").read_text())


def test_two_processes_that_need_the_same_build_it_once(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=race, args=(tmp_path, "b", reordered(RECIPE)))
    other.start()
    race(tmp_path, "a", RECIPE)
    other.join(60)
    assert other.exitcode == 0
    builders = {(tmp_path / name).read_text() for name in ("builds", "found-a", "found-b")}
    assert len(builders) == 1
    assert builders <= {"a", "b"}


# ---- several processes of one run ----


def test_the_other_processes_wait_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    path = tmp_path / "made"
    threading.Timer(0.3, path.mkdir).start()
    make_folder(path, RECIPE, fail)
    assert path.exists()


def test_in_training_they_all_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    path, called = tmp_path / "made", []
    threading.Timer(0.3, path.mkdir).start()
    make_folder(path, RECIPE, called.append, together=True)
    assert called == [tmp_path / "made.partial"]


def test_waiting_ends_when_the_starting_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = itertools.chain([500, 500], itertools.repeat(1))
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    with pytest.raises(LobertError, match="process 0 ended"):
        wait_for(tmp_path / "never")


def test_a_launcher_that_is_process_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose command is the launcher."""
    monkeypatch.setattr("os.getppid", lambda: 1)
    threading.Timer(0.3, (tmp_path / "made").mkdir).start()
    wait_for(tmp_path / "made")


# ---- files ----


def test_a_file_is_written_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    for text in ("first", "zweite Fassung é", ""):
        write_atomic(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(path.parent) == ["facts.json"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "facts.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "n" * 100_000 + "\ud800")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["facts.json"]
