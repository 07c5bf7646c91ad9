"""What `import lobert` offers: the command line's compression as a function."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from lobert.compression import CompressionReport, compress_model
from lobert.factorizations import RankSetting
from lobert.layers import Evaluation
from lobert.plan import make_plan
from lobert.points import named_parts


def compress(
    model: PreTrainedModel,
    decomp: str | Sequence[str],
    *,
    keep: float | None = None,
    rank: RankSetting | None = None,
    evaluation: Evaluation = "auto",
) -> CompressionReport:
    """Compress a BERT of transformers in place, as `train.py decomp=...` does, and report sizes, costs and errors.

    Args:
        decomp: a name of `conf/decomp`, or several: `["tucker_4d", "ffn_svd"]`.
        keep: share of the touched weights that stays, above 0 and at most 1; None for the point's default rank.
        rank: exact rank instead, where `decomp` is one point.
        evaluation: "contract", "merge" or, by default, whichever costs fewer multiply-adds.

    Raises LobertError for unknown names, impossible sizes and models whose roles are not known.
    """
    return compress_model(model, make_plan(model, named_parts(decomp, keep, rank), evaluation))
