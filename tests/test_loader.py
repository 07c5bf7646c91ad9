"""Laws of the batches: every row once, the same for any number of processes, exactly resumable in a real Trainer."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint

from lobert.data import LengthGroupedBatchSampler, ResumableLoader, TextData, TokenizedSplit, collate
from lobert.errors import LobertError
from lobert.training.datamodule import TextDataModule

SIZES = [(7, 3, 1), (64, 8, 1), (65, 8, 2), (65, 8, 4), (67, 8, 4), (1000, 16, 3), (4, 4, 4)]  # rows, batch, processes


def random_lengths(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(3, 40, rows)


def samplers(rows: int, batch: int, world: int, shuffle: bool = True, seed: int = 1) -> list[LengthGroupedBatchSampler]:
    lengths = random_lengths(rows)
    return [LengthGroupedBatchSampler(lengths, batch, seed, rank, world, shuffle) for rank in range(world)]


def make_split(rows: int, types: bool = True, labels: str | None = "int64") -> TokenizedSplit:
    lengths = random_lengths(rows)
    ids = np.random.default_rng(0).integers(5, 99, lengths.sum()).astype(np.int32)
    return TokenizedSplit(
        name="train",
        input_ids=ids,
        token_type_ids=(ids % 2).astype(np.int8) if types else None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        labels=(np.arange(rows) % 3).astype(labels) if labels else None,
        fingerprint="x",
    )


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("rows", "batch", "world"), SIZES)
def test_processes_share_every_row_once(rows: int, batch: int, world: int, shuffle: bool) -> None:
    dealt = [list(sampler) for sampler in samplers(rows, batch, world, shuffle)]
    assert sorted(row for batches in dealt for rows_ in batches for row in rows_) == list(range(rows))
    assert len({len(batches) for batches in dealt}) == 1
    assert all(rows_ for batches in dealt for rows_ in batches)


@pytest.mark.parametrize(("rows", "batch", "world"), [size for size in SIZES if size[2] > 1])
def test_global_batches_do_not_depend_on_the_number_of_processes(rows: int, batch: int, world: int) -> None:
    dealt = samplers(rows, batch, world)
    together = [sorted(chain(*parts)) for parts in zip(*dealt, strict=True)]
    alone = [sorted(part) for part in samplers(rows, batch, 1)[0]]
    if rows % batch == 0 or rows % batch >= world:
        assert together == alone
    else:
        assert len(together) == len(alone) - 1  # the short batch joined another
    assert [dealt[0].global_size(i) for i in range(len(dealt[0]))] == [len(part) for part in together]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = samplers(100, 8, 1, seed=seed)[0]
        for other in (3, epoch):
            sampler.set_epoch(other)
        return list(sampler)

    cases = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(order(*case) == order(*case) for case in cases)
    assert len({str(order(*case)) for case in cases}) == len(cases)


def test_grouping_saves_padding_and_evaluation_is_sorted() -> None:
    def padded(batches: list[list[int]], lengths: np.ndarray) -> int:
        return sum(len(batch) * int(lengths[batch].max()) for batch in batches)

    sampler, evaluation = samplers(1000, 16, 1)[0], samplers(1000, 16, 1, shuffle=False)[0]
    lengths = sampler.lengths
    unsorted = np.random.default_rng(0).permutation(1000)
    plain = [unsorted[i : i + 16].tolist() for i in range(0, 1000, 16)]
    assert lengths.sum() <= padded(list(sampler), lengths) < 1.15 * lengths.sum() < padded(plain, lengths)
    in_order = lengths[list(chain(*evaluation))]
    assert (np.diff(in_order) >= 0).all()


def test_more_processes_than_rows_are_refused() -> None:
    with pytest.raises(LobertError, match="4 processes"):
        LengthGroupedBatchSampler(random_lengths(3), 8, 0, 0, 4)


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize(("labels", "dtype"), [("int64", torch.int64), ("float32", torch.float32), (None, None)])
@pytest.mark.parametrize("pad_to", [None, 50])
def test_collate_pads_and_nothing_else(types: bool, labels: str | None, dtype: Any, pad_to: int | None) -> None:
    split = make_split(9, types, labels)
    picked = [4, 0, 7]
    batch = collate([split[i] for i in picked], pad_token_id=3, pad_to=pad_to)
    assert batch["input_ids"].shape == (3, pad_to or split.lengths()[picked].max())
    assert batch["index"].tolist() == picked
    assert ("token_type_ids" in batch, "labels" in batch) == (types, labels is not None)
    for line, i in enumerate(picked):
        mask = batch["attention_mask"][line].bool()
        assert batch["input_ids"][line][mask].tolist() == split[i]["input_ids"].tolist()
        assert (batch["input_ids"][line][~mask] == 3).all()
        if types:
            assert batch["token_type_ids"][line][mask].tolist() == split[i]["token_type_ids"].tolist()
    if labels:
        assert batch["labels"].dtype == dtype
        assert batch["labels"].tolist() == [split[i]["label"] for i in picked]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_leaves_the_global_random_state_alone(workers: int) -> None:
    loader = ResumableLoader(make_split(20), samplers(20, 4, 1)[0], 0, workers)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert [batch["index"].tolist() for batch in loader] == list(loader.batch_sampler)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loaded_state_holds_for_one_pass() -> None:
    loader = ResumableLoader(make_split(20), samplers(20, 4, 1)[0], 0)
    loader.load_state_dict({"batch": 3, "batches": 5})
    assert [len(list(loader)) for _ in range(2)] == [2, 5]
    with pytest.raises(LobertError, match="7 batches"):
        loader.load_state_dict({"batch": 3, "batches": 7})


class Toy(pl.LightningModule):
    """Records the rows it was trained on; raises once at `fail_at`, before the step is done."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fail_at = fail_at
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        if len(self.seen) == self.fail_at:
            raise RuntimeError("interrupted")
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.layer(batch["index"][:, None].float() / 100).square().mean()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val", batch["index"].float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    toy: Toy, workers: int, folder: Path, resume: Path | None = None, callbacks: tuple[Callback, ...] = ()
) -> pl.Trainer:
    split = make_split(26)  # 7 batches of 4
    splits = {"train": split, "validation": split}
    data = TextDataModule(TextData(splits, ["validation"], 0, 8, num_workers=workers), batch_size=4, seed=5)
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(toy, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    torch.manual_seed(0)
    toy = Toy()
    fit(toy, 0, tmp_path_factory.mktemp("whole"))
    return toy


def fresh(fail_at: int | None = None) -> Toy:
    torch.manual_seed(0)
    return Toy(fail_at)


def assert_continues(first: Toy, second: Toy, whole: Toy) -> None:
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.layer.weight, whole.layer.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("workers", "fail_at"), [(0, 0), (0, 3), (0, 7), (0, 10), (0, 13), (2, 10), (2, 14)])
def test_resume_after_an_exception_is_exact(workers: int, fail_at: int, tmp_path: Path, uninterrupted: Toy) -> None:
    first, second = fresh(fail_at), fresh()
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(first, workers, tmp_path, callbacks=(OnExceptionCheckpoint(tmp_path, "last"),))
    fit(second, workers, tmp_path, resume=tmp_path / "last.ckpt")
    assert_continues(first, second, uninterrupted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("workers", "step"), [(0, 3), (0, 6), (0, 7), (0, 9), (0, 14), (2, 9), (2, 14)])
def test_resume_from_a_saved_step_is_exact(workers: int, step: int, tmp_path: Path, uninterrupted: Toy) -> None:
    first, second = fresh(), fresh()
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=step, save_top_k=-1)
    fit(first, workers, tmp_path, callbacks=(save,))
    fit(second, workers, tmp_path, resume=tmp_path / f"step={step}.ckpt")
    first.seen = first.seen[:step]
    assert_continues(first, second, uninterrupted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_train_epoch_end", [True, False])
def test_resume_at_epoch_end_is_exact(
    workers: int, on_train_epoch_end: bool, tmp_path: Path, uninterrupted: Toy
) -> None:
    first, second = fresh(), fresh()
    save = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=on_train_epoch_end)
    fit(first, workers, tmp_path, callbacks=(save,))
    fit(second, workers, tmp_path, resume=tmp_path / "epoch=1.ckpt")
    first.seen = first.seen[:14]
    assert_continues(first, second, uninterrupted)
