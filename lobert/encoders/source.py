"""Encoders: from a name, a folder, an installed package or sizes to a local model folder, and to a classifier."""

import importlib.util
import logging
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lobert.errors import LobertError, first_line
from lobert.storage.artefacts import Store, hash_files

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
        config: sizes of a randomly initialised encoder, for tests; `model_type` says of which kind, BERT by default.
        dropout: in place of the encoder's own dropout; None leaves it.
        roles: patterns of the modules' paths of an architecture that is not known (`patterns.py`); None leaves one.
    """

    name: str
    path: str | None = None
    package: str | None = None
    config: Mapping[str, Any] | None = None
    dropout: float | None = None
    roles: Mapping[str, str | None] | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and not (isinstance(self.dropout, int | float) and 0 <= self.dropout < 1):
            raise LobertError(f"encoder.dropout={self.dropout} will not do: give a share from 0 to below 1, or null")
        for role, pattern in (self.roles or {}).items():
            if not isinstance(pattern, str | None):
                raise LobertError(f"encoder.roles.{role}={pattern} will not do: give the path of a module, or null")

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


def local_or_hub(path: str, setting: str = "encoder.path", other_weights: str | None = None) -> Path:
    """A folder as it is, or the hub's files in the local cache: "name", or "name@revision".

    `setting` is what a complaint names; `other_weights` are the files to fetch where the hub has no safetensors.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise LobertError(f"{setting}={path} is a folder without config.json: give a Hugging Face model folder")
        return folder
    if path.startswith((".", "/", "~")):
        raise LobertError(f"{setting}={path}: there is no such folder")
    name, _, revision = path.partition("@")
    fetch = partial(snapshot_download, name, revision=revision or None)
    try:
        found = Path(fetch(allow_patterns=list(MODEL_FILES)))
        if other_weights is not None and not any(found.glob("*.safetensors")):
            return Path(fetch(allow_patterns=[*MODEL_FILES, other_weights]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        log.debug("hub: %s", error)
        raise LobertError(
            f"{setting}={path} is neither a folder here nor to be had from the hub ({type(error).__name__}): "
            f"check the name and the network, or type {setting}=FOLDER, or encoder=minilm, which needs no network"
        ) from None
    if not any(found.glob("*.safetensors")):
        raise LobertError(
            f"the hub has no weights of '{path}' in the safetensors format, and LoBERT reads no pickles: name a "
            f"revision that has them, {setting}={name}@REVISION, or convert a copy and type {setting}=FOLDER"
        )
    return found


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
    """A randomly initialised encoder with a small word-and-letter vocabulary; the same for every seed of a run."""
    vocabulary = tiny_vocabulary()

    def build(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModel.from_config(random_config(config, len(vocabulary))).save_pretrained(folder)
        BertTokenizer(vocab={token: index for index, token in enumerate(vocabulary)}).save_pretrained(folder)

    return store.make("encoder", name, {"config": config, "vocabulary": vocabulary}, build)


def random_config(config: Mapping[str, Any], vocabulary: int) -> PretrainedConfig:
    """The configuration with these sizes, for a vocabulary whose first token is the padding."""
    sizes = {"model_type": "bert", "vocab_size": vocabulary, "pad_token_id": 0, **config}
    try:
        return AutoConfig.for_model(**sizes)
    except Exception as error:  # each kind checks its sizes in its own way
        raise LobertError(f"encoder.config is no configuration of a model: {first_line(error)}") from None


def tiny_vocabulary() -> list[str]:
    """Special tokens, every printable character at the start of and inside a word, and the commonest words."""
    letters = [*string.ascii_lowercase, *string.digits]
    words = ["the", "a", "an", "of", "to", "in", "and", "is", "was", "were", "by", "for", "on", "with", "that", "it"]
    endings = ["##s", "##ed", "##ing", "##er", "##ly", "##tion", "##ent", "##al"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *string.punctuation]
    return list(dict.fromkeys([*tokens, *("##" + letter for letter in letters), *words, *endings]))


def auto_class(chooses: bool) -> Any:
    """Transformers' factory of the models of a task: those that choose among options, or classifiers."""
    return AutoModelForMultipleChoice if chooses else AutoModelForSequenceClassification


def skeleton(folder: Path, chooses: bool = False) -> PreTrainedModel:
    """A classifier on the encoder in `folder`, with shapes alone: no weights are read, no memory is taken.

    With `chooses` it is a multiple-choice model.
    """
    with reading("encoder", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            return auto_class(chooses).from_config(config)


def has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's files are there: without them transformers makes one up that knows special tokens alone."""
    return any(path.is_file() for pattern in VOCABULARY_FILES for path in folder.glob(pattern))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in an encoder's folder."""
    if not has_vocabulary(folder):
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


def classifier_settings(labels: Sequence[str]) -> dict[str, Any]:
    """What a configuration says of the head; `labels` empty means regression."""
    if not labels:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def build_classifier(
    folder: Path, labels: Sequence[str], seed: int, dropout: float | None = None, chooses: bool = False
) -> PreTrainedModel:
    """A sequence classifier on the encoder in `folder`; `labels` empty means regression.

    With `chooses` it is a multiple-choice model: `labels` name the options of an example, `[B, options, T]`, each
    scored by one output. A head that the folder does not hold is drawn from `seed`.
    """
    torch.manual_seed(seed)
    with reading("encoder", folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **classifier_settings(labels))
        if dropout is not None:
            set_dropout(config, dropout)
        model, loaded = auto_class(chooses).from_pretrained(
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


def set_dropout(config: PretrainedConfig, rate: float) -> None:
    """Give every dropout of a configuration this rate, however the architecture calls it."""
    for name, value in config.to_dict().items():
        if "dropout" in name and (value is None or isinstance(value, int | float)):
            setattr(config, name, rate)


def most_tokens(model: PreTrainedModel) -> int | None:
    """How long a text can be: the learned positions, less those that padding takes; None for relative positions."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None
