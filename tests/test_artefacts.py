"""Laws of artefacts: found by what they were made from, made once, never half."""

import errno
import itertools
import json
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.utilities import rank_zero_only

from lobert.errors import LobertError, sentence_of
from lobert.storage import artefacts, manifest
from lobert.storage.artefacts import (
    LOCK_FILE,
    RECIPE_FILE,
    Store,
    find,
    fingerprint,
    hash_files,
    locked,
    make_folder,
    read_recipe,
    wait_for,
    write_atomic,
)
from lobert.storage.disk import HOST, PARTIAL
from lobert.storage.manifest import write_manifest

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
    assert read_recipe(path) == RECIPE
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


def race(root: Path, me: str, recipe: dict[str, Any], unlocks: bool = False) -> None:
    """Ask for an artefact whose build lasts until both processes have asked; `unlocks` removes the lock files then."""

    def build(folder: Path) -> None:
        with (root / "builds").open("a") as file:
            file.write(me)
        deadline = time.monotonic() + 60
        while len(list(root.glob("here-*"))) < 2:
            assert time.monotonic() < deadline, "the other process never came"
            time.sleep(0.01)
        time.sleep(0.3)  # and the other one has reached the lock
        for lock in root.rglob(LOCK_FILE) if unlocks else ():
            lock.unlink()
        time.sleep(0.3 if unlocks else 0)  # long enough for the other one to try again
        write(me)(folder)

    (root / f"here-{me}").touch()
    path = Store(root).make("teacher", "t", recipe, build)
    (root / f"found-{me}").write_text((path / "made.txt").read_text())


@pytest.mark.parametrize("state", ["missing", "damaged", "missing, and locks are removed"])
def test_two_processes_that_need_the_same_build_it_once(tmp_path: Path, state: str) -> None:
    if state == "damaged":
        (Store(tmp_path).make("teacher", "t", RECIPE, write("old")) / "made.txt").write_text("odd")
    unlocks = state.endswith("removed")
    spawn = multiprocessing.get_context("fork")
    other = spawn.Process(target=race, args=(tmp_path, "b", reordered(RECIPE), unlocks))
    other.start()
    race(tmp_path, "a", RECIPE, unlocks)
    other.join(60)
    assert other.exitcode == 0
    builders = {(tmp_path / name).read_text() for name in ("builds", "found-a", "found-b")}
    assert len(builders) == 1
    assert builders <= {"a", "b"}
    kept = {name.partition(".")[2] for name in names(tmp_path / "teacher")}
    assert kept == ({"", "broken-1"} if state == "damaged" else {""})


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the lock would be one that outlives a killed process."""
    monkeypatch.setattr("fcntl.flock", raising(OSError(errno.ENOSYS, "Function not implemented")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LobertError, match="no file locks"):
            make_folder(tmp_path / "made", RECIPE, fail)
    monkeypatch.setattr("fcntl.flock", raising(OSError(errno.ENOLCK, "No locks available")))
    for wants in (lambda: make_folder(tmp_path / "made", RECIPE, fail), locked(tmp_path / "made").__enter__):
        with pytest.raises(LobertError, match="no file locks"):
            wants()


# ---- damage ----


def raising(error: BaseException) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise error

    return function


def flip(path: Path, place: float, bit: int = 0) -> None:
    """Flip one bit of a file, and leave size and times as they were."""
    content, before = bytearray(path.read_bytes()), path.stat()
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def two_files(folder: Path) -> None:
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 64)
    write("whole")(folder)


WEIGHTS = "deep/weights.bin"
DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / WEIGHTS).unlink(), "weights.bin is missing"),
    (lambda folder: os.truncate(folder / WEIGHTS, 9_999), "has 9,999 bytes and had 16,384"),
    (lambda folder: os.truncate(folder / WEIGHTS, 0), "has 0 bytes"),
    (lambda folder: flip(folder / WEIGHTS, 0.0), "weights.bin has changed"),
    (lambda folder: flip(folder / WEIGHTS, 0.5, 7), "weights.bin has changed"),
    (lambda folder: flip(folder / WEIGHTS, 1.0), "weights.bin has changed"),
    (lambda folder: (folder / "made.txt").write_text("whale"), "made.txt has changed"),
    (lambda folder: (folder / RECIPE_FILE).unlink(), "recipe.json cannot be read"),
    (lambda folder: os.truncate(folder / RECIPE_FILE, 100), "recipe.json cannot be read"),
    (lambda folder: (folder / RECIPE_FILE).write_bytes(b"\xff"), "recipe.json cannot be read"),
    (lambda folder: (folder / RECIPE_FILE).write_text("[]"), "not what it was made from"),
    (lambda folder: (folder / RECIPE_FILE).write_text('{"recipe": {}, "files": {}}'), "not what it was made from"),
]


@pytest.mark.parametrize("again", [False, True], ids=["first look", "looked at before"])
@pytest.mark.parametrize(("spoil", "said"), DAMAGE)
def test_a_damaged_artefact_is_moved_aside_and_made_again(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
    said: str,
    again: bool,
) -> None:
    store = Store(tmp_path)
    path = store.make("knowledge", "k", RECIPE, two_files)
    if not again:
        monkeypatch.setattr(manifest, "_sound", {})  # as in another process
    spoil(path)
    assert not find(path, RECIPE)
    store.make("knowledge", "k", RECIPE, two_files)
    (warning,) = caplog.messages
    assert said in warning
    assert f"{path.name}.broken-1" in warning
    assert names(path.parent) == [path.name, f"{path.name}.broken-1"]
    assert (path / "deep" / "weights.bin").stat().st_size == 256 * 64
    assert find(path, RECIPE)
    spoil(path)
    store.make("knowledge", "k", RECIPE, two_files)
    assert names(path.parent) == [path.name, f"{path.name}.broken-1", f"{path.name}.broken-2"]


def test_a_flipped_bit_of_the_recipe_file_is_found_or_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Store(tmp_path).make("k", "k", {"seed": 1, "rate": 0.1, "name": "é"}, write("whole"))
    recipe, whole = read_recipe(path), (path / RECIPE_FILE).read_bytes()
    for place, bit in itertools.product(range(0, len(whole), 3), (0, 5)):
        (path / RECIPE_FILE).write_bytes(whole)
        flip(path / RECIPE_FILE, place / (len(whole) - 1), bit)
        monkeypatch.setattr(manifest, "_sound", {})
        if find(path, recipe):
            assert json.loads((path / RECIPE_FILE).read_bytes()) == json.loads(whole)


def test_what_older_versions_made_is_taken_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.path("teacher", "t", RECIPE)
    path.mkdir(parents=True)
    (path / "weights").write_text("any")
    (path / RECIPE_FILE).write_text(json.dumps(RECIPE, indent=2))
    assert store.make("teacher", "t", RECIPE, fail) == path
    assert read_recipe(path) == RECIPE


def test_what_is_added_later_is_no_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.make("teacher", "t", RECIPE, two_files)
    (path / "README.md").write_text("a card")
    (path / "deep" / "more").mkdir()
    assert store.make("teacher", "t", RECIPE, fail) == path


def test_an_artefact_is_read_once_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = Store(tmp_path), []
    path = store.make("teacher", "t", RECIPE, two_files)
    digest = manifest._digest
    monkeypatch.setattr(manifest, "_digest", lambda path: (read.append(path.name), digest(path))[1])
    monkeypatch.setattr("time.time", itertools.cycle([4e9, -1.0]).__next__)
    assert all(find(path, RECIPE) for _ in range(3))
    assert read == []  # this process has written it
    for year in (-10, 0, 50):  # before the epoch of Unix, in it, in the future
        for file in (path / "made.txt", path, path / RECIPE_FILE):
            os.utime(file, (year * 3.2e7, year * 3.2e7))
        assert all(find(path, RECIPE) for _ in range(3))
        assert store.make("teacher", "t", RECIPE, fail) == path
        assert sorted(read) == ["made.txt", "weights.bin"]
        read.clear()


def test_scratch_is_kept_until_the_artefact_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a kill while the files are checked or synchronized loses no training."""

    def build(folder: Path) -> None:
        (folder / "checkpoints").mkdir(exist_ok=True)
        write("step ")(folder / "checkpoints")
        (folder / "out.txt").write_text((folder / "checkpoints" / "made.txt").read_text())
        (folder / ".out.txt.0123.partial").write_text("what a killed process leaves")

    path = tmp_path / "student"
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            make_folder(path, RECIPE, build, resume=True, scratch="checkpoints")
    make_folder(path, RECIPE, build, resume=True, scratch="checkpoints")
    assert (path / "out.txt").read_text() == "step step "
    assert not (path / "checkpoints").exists()
    assert set(json.loads((path / RECIPE_FILE).read_text())["files"]) == {"out.txt"}


# ---- disks ----


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "its disk is full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "denied"),
     (errno.EIO, "input/output error"), (errno.EFBIG, "ulimit"),
     (errno.ENOTDIR, "is a file"), (errno.EEXIST, "is there already")],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "in a library's error"])
def test_trouble_with_a_disk_gets_one_sentence(tmp_path: Path, number: int, said: str, wrapped: bool) -> None:
    error = OSError(number, os.strerror(number))

    def build(folder: Path) -> None:
        write("half")(folder)
        raise Exception(f"I/O error: {error.strerror} (os error {number})") if wrapped else error

    path = tmp_path / "student"
    with pytest.raises(LobertError) as caught:
        make_folder(path, RECIPE, build, resume=True)
    text = str(caught.value)
    assert said in text
    assert str(path) in text
    assert "output_dir=FOLDER" in text
    assert "\n" not in text
    assert not path.exists()
    make_folder(path, RECIPE, write(" whole"), resume=True)
    assert (path / "made.txt").read_text() == "half whole"


def test_other_errors_have_no_sentence_of_this_kind() -> None:
    bug = KeyError("struck while another error was handled")
    bug.__context__ = PermissionError(errno.EACCES, "Permission denied", "a")
    assert sentence_of(bug) is None
    assert sentence_of(FileNotFoundError(errno.ENOENT, "No such file")) is None
    assert "'a'" in (sentence_of(PermissionError(errno.EACCES, "Permission denied", "a"), "b") or "")
    assert "full" in (sentence_of(OSError("4096 requested and 1000 written"), "b") or "")


# ---- several processes of one run ----


def place(path: Path) -> None:
    """What process zero does."""
    path.mkdir()
    write_manifest(path, RECIPE)


def test_the_other_processes_wait_while_the_first_replaces_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "made"
    make_folder(path, RECIPE, write("whole"))
    flip(path / "made.txt", 0.5)
    thread = threading.Timer(0.3, make_folder, [path, RECIPE, write("whole")])
    thread.start()
    monkeypatch.setattr(artefacts, "process_rank", lambda: int(threading.current_thread() is not thread))
    make_folder(path, RECIPE, fail)
    assert (path / "made.txt").read_text() == "whole"


def test_the_other_processes_wait_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    path = tmp_path / "made"
    threading.Timer(0.3, place, [path]).start()
    make_folder(path, RECIPE, fail)
    assert path.exists()


def test_in_training_they_all_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    path, called = tmp_path / "made", []
    threading.Timer(0.3, place, [path]).start()
    make_folder(path, RECIPE, called.append, together=True)
    assert called == [tmp_path / "made.partial"]


def test_waiting_ends_when_the_starting_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = itertools.chain([500, 500], itertools.repeat(1))
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    with pytest.raises(LobertError, match="process 0 ended"):
        wait_for(tmp_path / "never", RECIPE)


def test_a_launcher_that_is_process_one_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose command is the launcher."""
    monkeypatch.setattr("os.getppid", lambda: 1)
    threading.Timer(0.3, place, [tmp_path / "made"]).start()
    wait_for(tmp_path / "made", RECIPE)


# ---- files ----


def test_a_file_is_written_whole_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "facts.json"
    for text in ("first", "zweite Fassung é", ""):
        write_atomic(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert names(path.parent) == ["facts.json"]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    dead = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    dead.start()
    dead.join()
    for process in (dead.pid, os.getppid()):
        (tmp_path / f".facts.json.{HOST}.{process}.0123abcd{PARTIAL}").write_text("half")
    (tmp_path / f".facts.json.0f0f0f0f.{dead.pid}.0123abcd{PARTIAL}").write_text("another machine's")
    write_atomic(path, "whole")
    left = {tuple(name.split(".")[3:5]) for name in names(tmp_path) if name.endswith(PARTIAL)}
    assert left == {("0f0f0f0f", str(dead.pid)), (HOST, str(os.getppid()))}


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
