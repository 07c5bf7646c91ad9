"""Which linears of a model meet in the heads of its attention."""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from lobert.encoders.roles import architecture_of, encoder_layers, find_weights, linear_at

MEETINGS: tuple[tuple[str, str, Literal["o", "i"]], ...] = (("key", "query", "o"), ("value", "attention_output", "i"))


@dataclass(frozen=True)
class Meeting:
    """Two linears of one layer, by their paths: `one` gives the dimensions of the heads, and so does `other` (`mode`
    "o"), or it reads them ("i"). `heads` is how many there are.
    """

    one: str
    other: str
    mode: Literal["o", "i"]
    heads: int


def meetings(model: PreTrainedModel) -> list[Meeting]:
    """Those of every layer; none where the model's attention does more with them than to multiply."""
    config = model.config
    if not architecture_of(model).plain_heads or getattr(config, "position_embedding_type", None) not in (
        None,
        "absolute",
    ):
        return []
    places, depth = (
        find_weights(model, [role for one, other, _ in MEETINGS for role in (one, other)]),
        range(len(encoder_layers(model))),
    )
    found = [
        Meeting(places[one, layer], places[other, layer], mode, config.num_attention_heads)
        for layer in depth
        for one, other, mode in MEETINGS
    ]
    return [meeting for meeting in found if fits(model, meeting)]


def fits(model: PreTrainedModel, meeting: Meeting) -> bool:
    """Whether both sides have the same dimensions, and a bias of values has another one that it can go to."""
    one, other = linear_at(model, meeting.one), linear_at(model, meeting.other)
    biased = [dict(linear.named_parameters()).keys() >= {"bias"} for linear in (one, other)]
    if meeting.mode == "i" and biased == [True, False]:
        return False
    size = other.out_features if meeting.mode == "o" else other.in_features
    return one.out_features == size and not size % meeting.heads
