"""The encoders LoBERT knows: where the weights of each role are. A new architecture is one row of ARCHITECTURES."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Architecture:
    """Module paths below the base model; a role may be a block of a module, as the query in "attn.Wqkv[rows 1/3]".

    `layers` is the list of layers, `roles` the linears inside one of them, `singles` the linears outside all of them,
    `tables` the embeddings. `heads` are linears of the classifier: their paths start at the whole model;
    `chooser_heads` are those of a multiple-choice model where they are others.
    Each set of roles in `shared_inputs` reads one and the same tensor. A role in `sums` gives its output to a sum with
    a residual, which the module named there reads; "" says that the sum is what the layer itself gives.
    With `repeats` a pass runs every layer several times, as they share their weights. A module at `between`, where a
    model has one, stands between two of the layers. `width` is the setting of the model's configuration that says how
    many neurons its feed-forward networks have. With `plain_heads` nothing comes between queries and keys, whose
    products are the scores of an attention, and nothing between values and its output but that they are summed up.
    """

    layers: str
    roles: Mapping[str, str]
    singles: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    chooser_heads: Mapping[str, str] | None = None
    shared_inputs: Sequence[Sequence[str]] = (("query", "key", "value"),)
    sums: Mapping[str, str] = field(default_factory=dict)
    repeats: bool = False
    between: str = ""
    width: str = "intermediate_size"
    plain_heads: bool = False

    def outside(self, prefix: str) -> dict[str, str]:
        """Paths from the model of all roles outside the layers; `prefix` leads to the base model."""
        return {**{role: prefix + path for role, path in {**self.singles, **self.tables}.items()}, **self.heads}

    def of_choosers(self) -> "Architecture":
        """Where the roles of a multiple-choice model are."""
        return self if self.chooser_heads is None else replace(self, heads=self.chooser_heads)


BERT = Architecture(
    layers="encoder.layer",
    roles={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_output": "attention.output.dense",
        "intermediate": "intermediate.dense",
        "output": "output.dense",
    },
    singles={"pooler": "pooler.dense"},
    tables={"word_embeddings": "embeddings.word_embeddings"},
    sums={"attention_output": "attention.output.LayerNorm", "output": "output.LayerNorm"},
    plain_heads=True,
)
ROBERTA = replace(
    BERT, singles={}, heads={"pooler": "classifier.dense"}, chooser_heads={"pooler": "roberta.pooler.dense"}
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": replace(
        ROBERTA,
        singles={"embedding_projection": "embeddings_project"},
        chooser_heads={"pooler": "sequence_summary.summary"},
    ),
    "distilbert": Architecture(
        layers="transformer.layer",
        roles={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
        },
        tables={"word_embeddings": "embeddings.word_embeddings"},
        heads={"pooler": "pre_classifier"},
        sums={"attention_output": "sa_layer_norm", "output": "output_layer_norm"},
        width="hidden_dim",
        plain_heads=True,
    ),
    "albert": Architecture(
        layers="encoder.albert_layer_groups",
        roles={
            "query": "albert_layers.0.attention.query",
            "key": "albert_layers.0.attention.key",
            "value": "albert_layers.0.attention.value",
            "attention_output": "albert_layers.0.attention.dense",
            "intermediate": "albert_layers.0.ffn",
            "output": "albert_layers.0.ffn_output",
        },
        singles={"embedding_projection": "encoder.embedding_hidden_mapping_in", "pooler": "pooler"},
        tables={"word_embeddings": "embeddings.word_embeddings"},
        repeats=True,
        plain_heads=True,
    ),
    "deberta-v2": replace(  # and v3, which is a v2 pretrained otherwise
        BERT,
        roles={
            **BERT.roles,
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
        },
        singles={"embedding_projection": "embeddings.embed_proj"},
        heads={"pooler": "pooler.dense"},
        between="encoder.conv",
        plain_heads=False,  # keys and queries meet those of positions, too
    ),
    "mpnet": replace(
        ROBERTA,
        roles={
            **BERT.roles,
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "attention_output": "attention.attn.o",
        },
        chooser_heads={"pooler": "mpnet.pooler.dense"},
        sums={"attention_output": "attention.LayerNorm", "output": "output.LayerNorm"},
    ),
    "modernbert": Architecture(
        layers="layers",
        roles={
            "query": "attn.Wqkv[rows 1/3]",
            "key": "attn.Wqkv[rows 2/3]",
            "value": "attn.Wqkv[rows 3/3]",
            "attention_output": "attn.Wo",
            "intermediate": "mlp.Wi",  # what is activated and its gate, one above the other
            "output": "mlp.Wo",
        },
        tables={"word_embeddings": "embeddings.tok_embeddings"},
        heads={"pooler": "head.dense"},
        sums={"attention_output": "mlp_norm", "output": ""},
    ),
}
