"""Chat-template families for tests: template files, their true special tokens, and small byte-level BPE tokenizers."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent.parent / "templates"

_TRAINING_TEXT = [
    "user assistant system model\n\n",
    "The quick brown fox jumps over the lazy dog. What is 12 + 30? It is 42.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))",
    "You are a careful assistant. ### Instruction:\n### Response:\n <think>\n\n</think>\n\n",
    "Été à Zürich, naïve façade; 日本語のテキスト; Привет, мир; 👩‍🔬🙂",
] * 20


@dataclass(frozen=True)
class Family:
    """How one family writes chats, as its documentation says it.

    Attributes:
        template: file under tests/templates, None for a base model without one.
        end: text that ends an assistant's turn.
        trims: whether contents lose their outer white space.
        lead: what stands between the generation prompt and the content.
        system: whether a system message is allowed.
        alternates: whether turns must alternate, beginning with the user.
        rstrip: special tokens that swallow the white space after them.
        sentencepiece: whether the tokenizer is of that kind (spaces as "▁", bytes for unknown characters).
    """

    name: str
    template: str | None
    specials: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    end: str
    trims: bool = False
    lead: str = ""
    system: bool = True
    alternates: bool = False
    rstrip: tuple[str, ...] = ()
    sentencepiece: bool = False


_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")

FAMILIES = {
    family.name: family
    for family in (
        # As in SmolLM2, the pad token is the end-of-turn token: a mask by pad id would lose it.
        Family("chatml", "chatml", _IM, "<|im_start|>", "<|im_end|>", "<|im_end|>", "<|im_end|>"),
        Family("chatml-generation", "chatml_generation", _IM, None, "<|endoftext|>", "<|im_end|>", "<|im_end|>"),
        Family("chatml-inside", "chatml_generation_inside", _IM, None, "<|endoftext|>", "<|im_end|>", "<|im_end|>"),
        Family(
            "llama3",
            "llama3",
            ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", *_HEADERS),
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|end_of_text|>",
            "<|eot_id|>",
            trims=True,
        ),
        Family(
            "gemma",
            "gemma",
            ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"),
            "<bos>",
            "<eos>",
            "<pad>",
            "<end_of_turn>",
            trims=True,
            system=False,
            alternates=True,
        ),
        Family(
            "mistral",
            "mistral",
            ("<s>", "</s>", "[INST]", "[/INST]"),
            "<s>",
            "</s>",
            "</s>",
            "</s>",
            trims=True,
            lead=" ",
            alternates=True,
        ),
        Family(
            "mistral-sentencepiece",
            "mistral",
            ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
            "<s>",
            "</s>",
            "</s>",
            "</s>",
            trims=True,
            lead=" ",
            alternates=True,
            sentencepiece=True,
        ),
        Family("plain", None, ("<s>", "</s>"), "<s>", "</s>", "</s>", "</s>"),
        Family("thinking", "chatml_thinking", _IM, None, "<|im_end|>", "<|im_end|>", "<|im_end|>"),
        Family("tools", "chatml_tools", _IM, None, "<|im_end|>", "<|im_end|>", "<|im_end|>"),
        Family(
            "phi3",
            "phi3",
            ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
            None,
            "<|endoftext|>",
            "<|endoftext|>",
            "<|end|>",
            rstrip=("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        ),
    )
}

# The families whose law is "content as it is, or trimmed, then the end of turn".
PLAIN_FAMILIES = (
    "chatml",
    "chatml-generation",
    "chatml-inside",
    "llama3",
    "gemma",
    "mistral",
    "mistral-sentencepiece",
    "plain",
)


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer: byte-level BPE with 600 entries, and its special tokens."""
    family = FAMILIES[name]
    specials = [AddedToken(t, special=True, rstrip=t in family.rstrip) for t in family.specials]
    backend = _sentencepiece_like(specials) if family.sentencepiece else _byte_level(specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
    )
    if family.template:
        tokenizer.chat_template = (TEMPLATES / f"{family.template}.jinja").read_text(encoding="utf-8")
    return tokenizer


def _byte_level(specials: list[AddedToken]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TRAINING_TEXT, trainer)
    return backend


def _sentencepiece_like(specials: list[AddedToken]) -> Tokenizer:
    """As in Llama 2, Mistral and Gemma: "▁" for a space, one put first, and byte tokens for unknown characters."""
    small = Tokenizer(models.BPE(unk_token="<unk>"))
    small.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    small.train_from_iterator([text[:20] for text in _TRAINING_TEXT[:3]], trainer)
    state = json.loads(small.to_str())
    vocabulary = state["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    state["model"]["byte_fallback"] = True
    backend = Tokenizer.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def with_template(name: str, template: str | None) -> PreTrainedTokenizerFast:
    """The family's tokenizer under another template (Jinja text)."""
    copy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of(name).backend_tokenizer,
        bos_token=FAMILIES[name].bos,
        eos_token=FAMILIES[name].eos,
        pad_token=FAMILIES[name].pad,
    )
    copy.chat_template = template
    return copy
