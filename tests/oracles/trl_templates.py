"""The chat templates that TRL ships: shapes of chats for them, and each family's protocol written out as a pattern.

The protocols hold for texts that imitate no special token. They say what a model writes under its family's own
generation prompt, and nothing of how spice-select finds it.
"""

import re
from functools import cache
from pathlib import Path

import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(trl.__file__).parent / "chat_templates"
VISION = ("idefics3", "llava_next", "smolvlm")
"""Templates that take texts in no other form than parts of a list."""

NAMES = sorted(p.stem for p in FOLDER.glob("*.jinja") if p.stem.removesuffix("_training") not in VISION)


def _user(text):
    return {"role": "user", "content": text}


def _assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def _call(number, city):
    return {
        "id": f"call0000{number}",
        "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": city}},
    }


def _result(number, text):
    return {"role": "tool", "content": text, "tool_call_id": f"call0000{number}", "name": "get_weather"}


_SYSTEM = {"role": "system", "content": "Be brief."}
_OSLO, _ROME = _call(1, "Oslo"), _call(2, "Rome")
_ASKED, _ONCE = _user("Rain?"), [_user("Rain?"), _assistant("", tool_calls=[_OSLO]), _result(1, "5 mm")]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city."}},
                "required": ["city"],
            },
        },
    }
]

SHAPES = {
    "plain": [_user("Hi."), _assistant("Hello!")],
    "turns": [_user("Hi."), _assistant("Hello!"), _user("And?"), _assistant("Fine.")],
    "system": [_SYSTEM, _user("Hi."), _assistant("Hello!")],
    "thinking in the text": [
        _user("Hi."), _assistant("<think>\nHm.\n</think>\n\nHello!"),
        _user("And?"), _assistant("<think>\nSo.\n</think>\n\nFine."),
    ],
    "thinking in a field": [_user("Hi."), _assistant("Hello!", reasoning_content="Hm.")],
    "call at the end": [_ASKED, _assistant("", tool_calls=[_OSLO])],
    "result at the end": _ONCE,
    "call and answer": [*_ONCE, _assistant("Yes.")],
    "text before a call": [_ASKED, _assistant("I look.", tool_calls=[_OSLO]), _result(1, "5 mm"), _assistant("Yes.")],
    "parallel calls": [
        _ASKED, _assistant("", tool_calls=[_OSLO, _ROME]), _result(1, "5 mm"), _result(2, "0 mm"),
        _assistant("In Oslo."),
    ],
    "two steps": [*_ONCE, _assistant("", tool_calls=[_ROME]), _result(2, "0 mm"), _assistant("In Oslo.")],
    "calls in two turns": [
        *_ONCE, _assistant("Yes."), _user("Rome?"), _assistant("", tool_calls=[_ROME]), _result(2, "0 mm"),
        _assistant("No."),
    ],
    "system and call": [_SYSTEM, *_ONCE, _assistant("Yes.")],
    "thinking before a call": [
        _ASKED, _assistant("<think>\nHm.\n</think>\n\n", tool_calls=[_OSLO]), _result(1, "5 mm"),
        _assistant("<think>\nSo.\n</think>\n\nYes."),
    ],
    "thinking field and call": [
        _ASKED, _assistant("", reasoning_content="Hm.", tool_calls=[_OSLO]), _result(1, "5 mm"),
        _assistant("Yes.", reasoning_content="So."),
    ],
    "two assistants": [_user("Hi."), _assistant("Hello!"), _assistant("Again.")],
    "assistant first": [_assistant("Welcome."), _user("Hi."), _assistant("Hello!")],
    "call without a result": [_ASKED, _assistant("", tool_calls=[_OSLO]), _user("Well?"), _assistant("Yes.")],
    "equal calls": [
        _ASKED, _assistant("", tool_calls=[_OSLO, {**_OSLO, "id": "call00002"}]), _result(1, "5 mm"),
        _result(2, "5 mm"), _assistant("Yes."),
    ],
    "thinking in several turns": [
        _ASKED, _assistant("", reasoning_content="Hm.", tool_calls=[_OSLO]), _result(1, "5 mm"),
        _assistant("Yes.", reasoning_content="So."), _user("Rome?"), _assistant("No.", reasoning_content="Well."),
    ],
    "empty result": [_ASKED, _assistant("", tool_calls=[_OSLO]), _result(1, ""), _assistant("Yes.")],
}  # fmt: skip

_CHATML = r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)"
_CHATML_THINKING = r"<\|im_start\|>assistant\n(?:<think>\n)?(.*?<\|im_end\|>)"
_HEADERS = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"

# Template -> its model's parts, as group 1. A pattern drops the thinking that the generation prompt itself opens.
PROTOCOLS = (
    (r"cohere(_training)?", r"<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>(.*?<\|END_OF_TURN_TOKEN\|>)"),
    (r"cohere2.*", r"<\|CHATBOT_TOKEN\|><\|START_RESPONSE\|>(.*?<\|END_RESPONSE\|><\|END_OF_TURN_TOKEN\|>)"),
    (
        r"deepseek.*",  # a later call of DeepSeek V3's template has no header at all
        r"(?:<｜Assistant｜>(?:<think>\n)?|<｜tool▁outputs▁end｜>|(?<!<｜tool▁call▁end｜>)(?=\n<｜tool▁call▁begin｜>))"
        r"(.*?<｜end▁of▁sentence｜>)",
    ),
    (
        r"gemma4.*|diffusion_gemma.*",  # a turn goes on after a tool's answer
        r"(?:<\|turn>model\n|<tool_response\|>(?!<\|tool_response>)(?:<\|turn>model\n)?)"
        r"(.*?(?:<turn\|>|<\|tool_response>))",
    ),
    (r"gemma3?(_training)?", r"<start_of_turn>model\n(.*?<end_of_turn>)"),
    (r"glm4moe", r"<\|assistant\|>(.*?)(?=<\|user\|>|<\|observation\|>|<\|assistant\|>|\Z)"),
    (r"glm4moe_training", r"<\|assistant\|>(.*?(?:<\|user\|>|<\|observation\|>))"),
    (
        r"gptoss.*",
        r"<\|start\|>assistant((?:<\|channel\|>analysis<\|message\|>[^<]*<\|end\|><\|start\|>assistant)?"
        r".*?(?:<\|return\|>|<\|call\|>|<\|end\|>))",
    ),
    (r"llama3.*", _HEADERS),
    (r"muse_glimmer.*", r"<\|start\|>assistant(.*?<\|eot\|>)"),
    (r"phi3.*", r"<\|assistant\|>\n(.*?<\|end\|>)"),
    (r"qwen3_5_nothink.*", r"<\|im_start\|>assistant\n(?:<think>\n\n</think>\n\n)?(.*?<\|im_end\|>)"),
    (r"nemotron.*|qwen3_5_think.*|qwen3_6.*|qwen3_8.*", _CHATML_THINKING),
    (r"qwen.*|lfm2.*", _CHATML),
)


def model_parts(name: str, text: str) -> list[tuple[int, int]]:
    """The spans of a rendering that the model of this template writes, by its family's protocol."""
    pattern = next(pattern for names, pattern in PROTOCOLS if re.fullmatch(names, name))
    return [match.span(1) for match in re.finditer(pattern, text, re.DOTALL)]


def tools_of(shape: str):
    """The tools on offer in a shape of chat."""
    return TOOLS if any("tool_calls" in message for message in SHAPES[shape]) else None


_SPECIAL = re.compile(
    r"<\|[\w/]+\|?>|<\w+\|>|<｜[^<>｜]+｜>|<\|\"\|>|</?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>|\[gMASK\]"
)
_ENDS = (
    "<|im_end|>", "<end_of_turn>", "<turn|>", "<|eot_id|>", "<|return|>", "<|end|>", "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>", "<|eot|>",
)  # fmt: skip


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer with the template's special tokens."""
    source = (FOLDER / f"{name}.jinja").read_text()
    specials = {*_SPECIAL.findall(source), "<s>", "</s>", "<|endoftext|>"}
    backend = _bpe(tuple(sorted(specials)))
    eos = "<|endoftext|>" if name.startswith("phi3") else next((end for end in _ENDS if end in specials), "</s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token="</s>", chat_template=source
    )


def _bpe(specials: tuple[str, ...]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["user assistant system model\n\n"] * 20, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return backend
