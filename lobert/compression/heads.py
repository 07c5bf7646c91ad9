"""Whether weights that meet in the heads of an attention are kept together: what is asked for, and what can be."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from lobert.compression.allocation import Sizing
from lobert.compression.grouping import ATTENTION, HeadsName, Part
from lobert.compression.joint import METHOD, joined, pairs_of
from lobert.compression.plan import GroupPlan
from lobert.encoders.attention import meetings
from lobert.errors import LobertError


def joined_as_asked(
    model: PreTrainedModel, plans: Sequence[GroupPlan], parts: Sequence[Part], sizing: Sizing
) -> list[GroupPlan]:
    """The plans, joint where that is asked for and can be.

    Raises LobertError where `joint` is asked for, not by default, and cannot be had.
    """
    asked, by_default = asked_heads(parts)
    if asked == "apart":
        return list(plans)
    reason = why_apart(model, plans, sizing)
    if reason is None:
        return joined(model, plans)
    if by_default:
        return list(plans)
    raise LobertError(f"decomp.heads=joint cannot be: {reason}")


def asked_heads(parts: Sequence[Part]) -> tuple[HeadsName, bool]:
    """What the parts say of heads, and whether that is a default; LobertError where they do not agree."""
    inside = [part for part in parts if set(ATTENTION) & set(part.roles)] or parts
    asked = list(dict.fromkeys(part.heads or part.default_heads for part in inside))
    if len(asked) > 1:
        named = ", ".join(f"{part.name} {part.heads or part.default_heads}" for part in inside)
        raise LobertError(f"the parts of decomp want their heads otherwise ({named}): type decomp.heads=apart")
    return (asked[0] if asked else "apart"), all(part.heads is None for part in inside)


def why_apart(model: PreTrainedModel, plans: Sequence[GroupPlan], sizing: Sizing) -> str | None:
    """Why no weights of this plan can be joint under these settings; None where some can."""
    if not meetings(model):
        return (
            f"the attention of this {model.config.model_type} does more with queries and keys than to multiply them, "
            "or has its weights in other places than LoBERT knows"
        )
    if not pairs_of(model, plans):
        return (
            f"queries with keys, or values with the attention's output, have to be compressed by {METHOD}, each "
            "weight by itself: take all_pivoted_svd or all_narrow_svd"
        )
    if sizing.allocate != "greedy":
        return "what a rank costs depends on its partner's: type decomp.allocate=greedy"
    if sizing.budget == "macs":
        return "it saves numbers and no multiply-adds: type decomp.budget=parameters"
    return None
