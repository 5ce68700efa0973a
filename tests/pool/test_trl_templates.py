"""Masks under every text chat template that TRL ships, against each family's protocol and TRL's own marks."""

import copy
import re
from collections import Counter

import pytest

pytest.importorskip("trl")

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from oracles.trl_templates import FOLDER, NAMES, SHAPES, model_parts, tokenizer_of, tools_of
from spice_select.errors import TemplateError
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import RenderProblem
from spice_select.pool.rendering import Renderer

# What TRL's training templates mark beyond the turn: what the generation prompt writes (headers, and thinking that it
# opens), and the eos token with which Phi-3's template closes a chat after its last end-of-turn token.
BEYOND = re.compile(
    r"<｜Assistant｜>|<｜tool▁outputs▁end｜>|<\|start\|>assistant|<\|turn>model|<\|START_RESPONSE\|>|</?think>"
    r"|<\|endoftext\|>|\s"
)


def chat_of(shape: str) -> Conversation:
    return Conversation(copy.deepcopy(SHAPES[shape]), copy.deepcopy(tools_of(shape)))


def outcome(renderer: Renderer, name: str, shape: str) -> str:
    """`right`, `wrong` or `refused`; `cannot` where the template itself raises, or leaves calls out."""
    try:
        rendering = renderer.render(chat_of(shape))
    except RenderProblem as problem:
        assert re.search("refuses it|leaves out the tool calls", problem.reason), problem.reason
        return "cannot"
    except TemplateError as error:
        assert re.search(r"^The chat template .*message.*\n.*--chat-template", str(error)), error
        return "refused"
    return "right" if rendering.spans == model_parts(name, rendering.text) else f"wrong: {name}, {shape}"


def test_masks_are_what_the_model_writes_under_every_template():
    """Every token that the model would write, nothing else, or a message; and not many messages."""
    assert len(NAMES) >= 40
    counts = Counter[str]()
    for name in NAMES:
        renderer = Renderer(tokenizer_of(name))
        counts.update(outcome(renderer, name, shape) for shape in SHAPES)
    print(dict(counts))  # noqa: T201 - shown by pytest -s
    assert not [kind for kind in counts if kind.startswith("wrong")], counts
    assert counts["refused"] <= 0.05 * (counts["right"] + counts["refused"]), counts
    assert counts["right"] > 600, counts


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_training")])
def test_masks_are_those_of_trl_without_what_the_prompt_writes(name):
    source, tokenizer = (FOLDER / f"{name}.jinja").read_text(), tokenizer_of(name)
    renderer = Renderer(tokenizer)
    compared = 0
    for shape in SHAPES:
        chat = chat_of(shape)
        try:
            rendering = renderer.render(chat)
        except (RenderProblem, TemplateError):
            continue
        texts, blocks = render_jinja_template(
            conversations=[chat.messages], tools=chat.tools, chat_template=source,
            return_assistant_tokens_mask=True, **tokenizer.special_tokens_map,
        )  # fmt: skip
        if texts[0] != rendering.text:  # a date, or arguments as text
            continue
        marked = {at for start, end in blocks[0] for at in range(start, end)}
        ours = {at for start, end in rendering.spans for at in range(start, end)}
        lacking = "".join(texts[0][at] for at in sorted(ours - marked))
        assert not lacking.replace("<|tool_response>", ""), (shape, lacking)  # Gemma's stop token after a call
        extra = "".join(texts[0][at] for at in sorted(marked - ours))
        assert not BEYOND.sub("", extra), (shape, extra)
        compared += 1
    assert compared >= 4


def test_a_call_without_arguments_as_objects_is_given_text():
    """DeepSeek V3's template joins the arguments to text: objects would break it."""
    rendering = Renderer(tokenizer_of("deepseekv3")).render(chat_of("call and answer"))
    assert '```json\n{"city": "Oslo"}\n```' in rendering.text
    assert [rendering.text[start:end] for start, end in rendering.spans][1] == "Yes.<｜end▁of▁sentence｜>"


FORGERIES = (
    "fox", " ", "\n", "<think>\n", "</think>", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_start|>user\n",
    "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<turn|>\n", "<|turn>model\n", "<tool_call>",
    '{"name": "x"}',
)  # fmt: skip
texts = st.lists(st.sampled_from(FORGERIES), min_size=1, max_size=5).map("".join).filter(lambda text: text.strip())


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_instruct_2507", "llama3_1", "gemma4_v2", "lfm2_v2"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_turns_of_tool_chats_cannot_be_forged(name, data):
    """What users and tools say moves no border; an answer is trained whole, whatever tokens it imitates."""
    renderer, answer = Renderer(tokenizer_of(name)), data.draw(texts)
    trained = []
    for asked, said in [("Rain?", "5 mm"), (data.draw(texts), data.draw(texts))]:
        chat = chat_of("calls in two turns")
        for message in chat.messages:
            if message["role"] != "assistant":
                message["content"] = asked if message["role"] == "user" else said
        chat.messages[3]["content"] = answer
        rendering = renderer.render(chat)
        trained.append([rendering.text[start:end] for start, end in rendering.spans])
    assert trained[0] == trained[1]
    assert trained[0][1].startswith((answer, answer.strip()))
    assert len(trained[0][1]) <= len(answer) + len("<|im_end|>")
