"""Encoders: from a name, a folder, an installed package or sizes to a local model folder, and to a classifier."""

import importlib.util
import logging
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lobert.artefacts import Store, hash_files
from lobert.errors import LobertError

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")
VOCABULARY_FILES = ("tokenizer.json", "vocab*", "*.model")
LONGEST_REASON = 200  # characters of what a library says
MODEL_FILES = ("config.json", "*.safetensors", *TOKENIZER_FILES)


@dataclass(frozen=True)
class EncoderSource:
    """Where a pretrained encoder comes from: exactly one of the three.

    Attributes:
        path: a local folder, or a name on the Hugging Face hub.
        package: "module/folder": a folder inside an installed Python package.
        config: sizes of a randomly initialised BERT, for tests.
        dropout: in place of the encoder's own dropout; None leaves it.
    """

    name: str
    path: str | None = None
    package: str | None = None
    config: Mapping[str, Any] | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise LobertError(f"encoder.dropout={self.dropout} will not do: give a share from 0 to below 1, or null")

    def folder(self, store: Store) -> Path:
        """The local folder with config, weights and tokenizer; LobertError where it cannot be had."""
        if self.path is not None:
            return local_or_hub(self.path)
        if self.package is not None:
            return package_folder(self.package)
        if self.config is not None:
            return random_encoder(dict(self.config), self.name, store)
        raise LobertError(
            f"encoder {self.name} says nothing of where it comes from: give encoder.path=FOLDER or a hub name"
        )


def local_or_hub(path: str) -> Path:
    """A folder as it is, or the hub's files in the local cache."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise LobertError(f"encoder.path={path} is a folder without config.json: give a Hugging Face model folder")
        return folder
    if path.startswith((".", "/", "~")):
        raise LobertError(f"encoder.path={path}: there is no such folder")
    try:
        return Path(snapshot_download(path, allow_patterns=list(MODEL_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        log.debug("hub: %s", error)
        raise LobertError(
            f"the encoder '{path}' is neither a folder here nor to be had from the hub ({type(error).__name__}): "
            "check the name and the network, or type encoder.path=FOLDER, or encoder=minilm, which needs no network"
        ) from None


def package_folder(package: str) -> Path:
    """The model folder inside an installed package."""
    module, _, inside = package.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        name = module.replace("_", "-")
        raise LobertError(
            f"this encoder lies in the Python package '{name}', which is not installed: type pip install {name}"
        )
    return Path(spec.origin).parent / inside


def random_encoder(config: dict[str, Any], name: str, store: Store) -> Path:
    """A randomly initialised BERT with a small word-and-letter vocabulary; the same for every seed of a run."""
    vocabulary = tiny_vocabulary()

    def build(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            BertModel(BertConfig(**config, vocab_size=len(vocabulary))).save_pretrained(folder)
        BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)}).save_pretrained(folder)

    return store.make("encoder", name, {"config": config, "vocabulary": vocabulary}, build)


def tiny_vocabulary() -> list[str]:
    """Special tokens, every printable character at the start of and inside a word, and the commonest words."""
    letters = [*string.ascii_lowercase, *string.digits]
    words = ["the", "a", "an", "of", "to", "in", "and", "is", "was", "were", "by", "for", "on", "with", "that", "it"]
    endings = ["##s", "##ed", "##ing", "##er", "##ly", "##tion", "##ent", "##al"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *string.punctuation]
    return list(dict.fromkeys([*tokens, *("##" + letter for letter in letters), *words, *endings]))


def skeleton(folder: Path) -> PreTrainedModel:
    """A classifier on the encoder in `folder`, with shapes alone: no weights are read, no memory is taken."""
    with reading("encoder", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in an encoder's folder."""
    # Without its files transformers makes one up that knows the special tokens alone.
    if not any(path.is_file() for pattern in VOCABULARY_FILES for path in folder.glob(pattern)):
        raise LobertError(f"there is no tokenizer in '{folder}': copy its files there ({', '.join(VOCABULARY_FILES)})")
    with reading("tokenizer", folder):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def reading(what: str, folder: Path) -> Iterator[None]:
    """One sentence in place of what the libraries say of a damaged folder."""
    try:
        yield
    except Exception as error:  # of whichever part of the libraries meets the damage first
        log.debug("%s: %s", folder, error)
        said = " ".join(str(error).split())[:LONGEST_REASON]
        reason = f"{type(error).__name__} {said}" if isinstance(error, LookupError) else said or type(error).__name__
        raise LobertError(f"the {what} in '{folder}' cannot be read: {reason}") from None


def tokenizer_key(folder: Path) -> str:
    """Content hash of the tokenizer's files."""
    return hash_files(folder, TOKENIZER_FILES)


def model_key(folder: Path) -> str:
    """Content hash of config and weights."""
    return hash_files(folder, ("config.json", "*.safetensors"))


def build_classifier(
    folder: Path, labels: Sequence[str], seed: int, dropout: float | None = None, chooses: bool = False
) -> PreTrainedModel:
    """A sequence classifier on the encoder in `folder`; `labels` empty means regression.

    With `chooses` it is a multiple-choice model: `labels` name the options of an example, `[B, options, T]`, each
    scored by one output. A head that the folder does not hold is drawn from `seed`.
    """
    settings: dict[str, Any] = {"num_labels": len(labels) or 1}
    if labels:
        settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if dropout is not None:
        settings |= {
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "classifier_dropout": dropout,
        }
    torch.manual_seed(seed)
    with reading("encoder", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **settings)
        if not chooses:
            config.problem_type = "single_label_classification" if labels else "regression"
        model, loaded = (AutoModelForMultipleChoice if chooses else AutoModelForSequenceClassification).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of the head of another task, which is drawn anew
        )
    check_loaded(model, loaded, folder)
    return model


def check_loaded(model: PreTrainedModel, loaded: Mapping[str, Any], folder: Path) -> None:
    """Refuse an encoder that is only in part that of the folder: the rest would be random."""
    inside = f"{model.base_model_prefix}."
    for name, found, wanted in sorted(loaded["mismatched_keys"]):
        if name.startswith(inside):
            raise LobertError(
                f"the encoder in '{folder}' has '{name}' as {list(found)}, and its config.json as {list(wanted)}"
            )
    for name in sorted(loaded["missing_keys"]):
        if name.startswith(inside) and not name.startswith(f"{inside}pooler."):  # some encoders come without a pooler
            raise LobertError(f"the encoder in '{folder}' lacks the weights '{name}': its file is not whole")
