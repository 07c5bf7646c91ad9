"""The loaders of one task for a Trainer."""

from collections.abc import Callable

import pytorch_lightning as pl

from lobert.data import LengthGroupedBatchSampler, ResumableLoader, TextData


class TextDataModule(pl.LightningDataModule):
    """The loaders of one task for a Trainer with `use_distributed_sampler=False`.

    Args:
        batch_size: rows of a training batch over all processes.
        seed: what the order of the training batches follows.
    """

    def __init__(self, data: TextData, batch_size: int, seed: int) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled training batches of this process."""
        return self._loader("train", self._sampler("train", self.batch_size, shuffle=True), self._batches_done)

    def val_dataloader(self) -> list[ResumableLoader]:
        """One loader for each dev split, rows sorted by length."""
        return [
            self._loader(name, self._sampler(name, self.data.eval_rows(name), shuffle=False))
            for name in self.data.eval_splits
        ]

    def _loader(
        self, split: str, sampler: LengthGroupedBatchSampler, progress: Callable[[], int] = int
    ) -> ResumableLoader:
        data = self.data
        return ResumableLoader(data.splits[split], sampler, data.pad_token_id, data.num_workers, progress)

    def _sampler(self, split: str, batch_size: int, shuffle: bool) -> LengthGroupedBatchSampler:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return LengthGroupedBatchSampler(
            self.data.splits[split].lengths(), batch_size, self.seed, rank, world_size, shuffle=shuffle
        )

    def _batches_done(self) -> int:
        assert self.trainer is not None  # Lightning sets it before it asks for a loader
        state = self.trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()
        # A checkpoint of the last batch resumes at the start of the next epoch.
        return int(state["processed"] % self.trainer.num_training_batches)
