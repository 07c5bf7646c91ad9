"""Laws of a calibration's examples: which tokens are exchanged, for what, and how many."""

from typing import Any

import pytest
import torch
from cases import one_sentence

from lobert.compression.examples import NOISE, Calibration, checked_batches, common_tokens, noisy
from lobert.distill.knowledge import Batch
from lobert.errors import LobertError

CLS, SEP, PAD = 2, 3, 0


def texts(*shape: int, seed: int = 0) -> Batch:
    """Texts `[*shape]` between [CLS] and [SEP], the last one shorter."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 1000, shape, generator=random)
    ids[..., 0], ids[..., -1] = CLS, SEP
    mask = torch.ones_like(ids)
    last = ids.flatten(0, -2)[-1]
    last[-4], last[-3:] = SEP, PAD
    mask.flatten(0, -2)[-1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(shape[0])}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (texts(4, 9), "data= is a dict"),
        ("a text", "data= is a str"),
        (3, "data= is a int"),
        (["a text"], "batch 0 of data= is a str"),
        ([texts(4, 9), {"input_ids": texts(4, 9)["input_ids"]}], "batch 1 of data= has no tensor .* 'attention_mask'"),
        ([{name: tensor.tolist() for name, tensor in texts(4, 9).items()}], "no tensor .* 'input_ids'"),
        ([{name: tensor[0] for name, tensor in texts(4, 9).items()}], "no tensor .* 'input_ids'"),
        ([{**texts(4, 9), "attention_mask": torch.ones(4, 8)}], "an attention_mask"),
        ([{**texts(4, 9), "input_ids": texts(4, 9)["input_ids"] + 1000}], "other tokens than the 1,000"),
        ([{**texts(4, 9), "input_ids": texts(4, 9)["input_ids"].float()}], "other tokens"),
    ],
)
def test_data_that_is_none_is_refused(data: Any, words: str) -> None:
    with pytest.raises(LobertError, match=words) as caught:
        checked_batches(data, 1000)
    one_sentence(caught.value)


def test_data_are_taken_from_wherever_they_come() -> None:
    batches = [texts(4, 9), texts(2, 3, 9)]
    assert checked_batches(iter(batches), 1000) == batches
    assert checked_batches(None, 1000) == []


@pytest.mark.parametrize("shape", [(20, 30), (8, 4, 30)])
@pytest.mark.parametrize("noise", [0.0, NOISE, 1.0])
def test_noise_exchanges_words_for_words(shape: tuple[int, ...], noise: float) -> None:
    before = [texts(*shape, seed=seed) for seed in range(4)]
    after, again = noisy(before, noise), noisy(before, noise)
    words = torch.cat([batch["input_ids"][batch["attention_mask"].bool()] for batch in before])
    changed, count = 0, 0
    for old, new, same in zip(before, after, again, strict=True):
        assert torch.equal(new["input_ids"], same["input_ids"])
        assert all(torch.equal(new[name], old[name]) for name in ("attention_mask", "labels"))
        fixed = (old["input_ids"] == CLS) | (old["input_ids"] == SEP) | (old["attention_mask"] == 0)
        assert torch.equal(new["input_ids"][fixed], old["input_ids"][fixed])
        assert torch.isin(new["input_ids"][~fixed], words[words > SEP]).all()
        changed += int((new["input_ids"] != old["input_ids"]).sum())
        count += int((~fixed).sum())
    assert changed / count == pytest.approx(noise, abs=0.03)
    assert common_tokens(before).tolist() == [CLS, SEP]


def test_batching_makes_no_difference() -> None:
    whole = texts(12, 30)
    padded = {name: torch.nn.functional.pad(value[4:], (0, 5)) for name, value in whole.items() if value.dim() == 2}
    parts = [{name: value[:4] for name, value in whole.items()}, padded]
    found = [batch["input_ids"][:, :30] for batch in noisy(parts, NOISE)]
    assert torch.equal(torch.cat(found), noisy([whole], NOISE)[0]["input_ids"])


def test_texts_that_are_all_the_same_stay_so() -> None:
    batch = texts(1, 12)
    assert torch.equal(noisy([batch], 1.0)[0]["input_ids"], batch["input_ids"])
    assert noisy([], NOISE) == []


@pytest.mark.parametrize("noise", [-0.1, 1.5, "much", None, True])
def test_a_share_that_is_none_is_refused(noise: object) -> None:
    with pytest.raises(LobertError, match=r"calibration_noise=.*from 0 to 1") as caught:
        Calibration(noise=noise)  # type: ignore[arg-type]
    one_sentence(caught.value)
