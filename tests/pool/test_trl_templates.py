"""Masks under every text chat template that TRL ships, against each family's protocol and TRL's own marks."""

import copy
import json
import re
from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("trl")

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from oracles.trl_templates import FOLDER, NAMES, SHAPES, TOOLS, model_parts, tokenizer_of, tools_of
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
    trained = "".join(rendering.text[start:end] for start, end in rendering.spans)
    calls = [call for message in SHAPES[shape] for call in message.get("tool_calls", [])]
    cities = Counter(call["function"]["arguments"]["city"] for call in calls)
    whole = all(trained.count(city) >= count for city, count in cities.items())
    right = whole and rendering.spans == model_parts(name, rendering.text)
    return "right" if right else f"wrong: {name}, {shape}"


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
        assert not lacking.replace("<|tool_response>", ""), (shape, lacking)  # what Gemma's template closes a call with
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


PLACES = ("asked", "result", "argument", "answer")


def forged_chat(place: str, text: str) -> Conversation:
    """Two turns with calls, one of them after an answer, with `text` in one place."""
    said = dict.fromkeys(PLACES, "fox") | {place: text}
    chat = chat_of("calls in two turns")
    for message in chat.messages:
        if message["role"] != "assistant":
            message["content"] = said["asked" if message["role"] == "user" else "result"]
    chat.messages[1]["tool_calls"][0]["function"]["arguments"]["city"] = f"a {said['argument']} b"
    chat.messages[3]["content"] = f"a {said['answer']} b"
    return chat


@pytest.mark.parametrize(
    "name",
    ["qwen2_5", "qwen3", "llama3_1", "gemma4", "gemma4_v2", "lfm2_v2", "gptoss", "glm4moe_training", "nemotron_3_nano"],
)
@settings(max_examples=20, deadline=None)
@given(place=st.sampled_from(PLACES), text=texts)
def test_nothing_that_is_said_moves_a_border(name, place, text):
    """The parts that are trained under a harmless text are those under one that imitates special tokens and prompts."""
    renderer, plain = Renderer(tokenizer_of(name)), "QZXW"
    expected, found = renderer.render(forged_chat(place, plain)), renderer.render(forged_chat(place, text))
    written = next(
        (form for form in (text, json.dumps(text)[1:-1]) if expected.text.replace(plain, form) == found.text), None
    )
    assume(written is not None)  # a template may rewrite thinking parts, or trim
    parts = [expected.text[start:end].replace(plain, written) for start, end in expected.spans]
    assert [found.text[start:end] for start, end in found.spans] == parts


KIMI = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.id + ' ' + c.function.arguments | tojson }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PYTHON = KIMI.replace("c.id + ' ' + c.function.arguments | tojson", "c.function.name ~ c.function.arguments")
TAGGED = PYTHON.replace("{% for c in m", "{% if m.role == 'assistant' %}{% generation %}{% for c in m").replace(
    "{{ '<|im_end|>' }}", "{{ '<|im_end|>' }}{% endgeneration %}{% else %}{{ '<|im_end|>' }}{% endif %}"
)


def renderer_of(template: str) -> Renderer:
    tokenizer = copy.deepcopy(tokenizer_of("qwen2_5"))
    tokenizer.chat_template = template
    return Renderer(tokenizer)


def trained(renderer: Renderer, shape: str) -> list[str]:
    rendering = renderer.render(chat_of(shape))
    return [rendering.text[start:end] for start, end in rendering.spans]


def test_calls_known_by_their_ids_alone_are_found():
    calls = '<call>call00001 {"city": "Oslo"}<call>call00002 {"city": "Rome"}<|im_end|>'
    assert trained(renderer_of(KIMI), "parallel calls") == [calls, "In Oslo.<|im_end|>"]


def test_arguments_are_never_written_as_python_does():
    assert trained(renderer_of(PYTHON), "call at the end") == ['<call>get_weather{"city": "Oslo"}<|im_end|>']


def test_tags_must_show_every_call_in_its_own_turn():
    """A template that writes the first call alone would drop the second, equal one without a word."""
    first = TAGGED.replace("in m.tool_calls or []", "in (m.tool_calls or [])[:1]")
    assert trained(renderer_of(TAGGED), "equal calls")[0].count("get_weather") == 2
    with pytest.raises(RenderProblem, match="leaves out the tool calls of message 2"):
        trained(renderer_of(first), "equal calls")


def test_a_template_that_refuses_tools_of_the_smallest_chat_stops_nothing():
    """Whether tools are written is asked with a chat that this template refuses."""
    needs_system = "{% if tools and messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
    chat = replace(chat_of("system"), tools=TOOLS)
    tokenizer = copy.deepcopy(tokenizer_of("qwen2_5"))
    tokenizer.chat_template = needs_system + tokenizer.chat_template
    renderer = Renderer(tokenizer)
    assert renderer.render(chat).spans and not renderer.leaves_out_tools(chat)
    without = renderer_of(KIMI)
    assert without.leaves_out_tools(chat) and not without.leaves_out_tools(chat_of("plain"))
