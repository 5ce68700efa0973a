"""What the data marks as not to be learnt is context; no field that bears on the text is dropped without a word."""

import copy
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.pool_families import tokenizer_of
from spice_select.errors import PoolError, TemplateError
from spice_select.output.trainers import training_row, training_table
from spice_select.pool.examples import PoolOptions, read_pool, segments
from spice_select.pool.types import unused_fields
from spice_select.row_tables import read_texts, write_texts

BAD, GOOD = {"role": "assistant", "content": "BAD"}, {"role": "assistant", "content": "good"}
CHAT = [{"role": "user", "content": "Q"}, BAD, {"role": "user", "content": "again"}, GOOD]
PLAIN = [{"role": "user", "content": "Q"}, GOOD]
CALL = {"name": "get_w", "arguments": {"city": "Oslo"}}
TOOL = {"type": "function", "function": {"name": "get_w", "parameters": {"type": "object", "properties": {}}}}


def read(rows, family="chatml", **options):
    return read_pool([rows], tokenizer_of(family), PoolOptions(**options))


def trained(rows, family="chatml", **options):
    """The trained texts of the only usable row."""
    (example,) = read(rows, family, **options).examples
    return [
        text.removesuffix("<|im_end|>") for text, is_trained in segments(example, tokenizer_of(family)) if is_trained
    ]


def marked(place, **marks):
    return [{**message, **marks} if number == place else message for number, message in enumerate(CHAT)]


def sharegpt(chat):
    names = {"user": "human", "assistant": "gpt"}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in chat]
    return [
        {**turn, **{k: v for k, v in m.items() if k not in ("role", "content")}}
        for turn, m in zip(turns, chat, strict=True)
    ]


@pytest.mark.parametrize("family", ["chatml", "chatml-generation"])
@pytest.mark.parametrize(
    "mark", [{name: value} for name in ("train", "training", "loss", "weight") for value in (False, 0)]
)
def test_a_marked_turn_is_context_in_every_form_of_chat(mark, family):
    chat = marked(1, **mark)
    for row in ({"messages": chat}, {"conversations": sharegpt(chat)}, {"messages": json.dumps(chat)}):
        assert trained([row], family) == ["good"]
    assert trained([{"prompt": chat[:1], "completion": chat[1:]}], family) == ["good"]


@pytest.mark.parametrize("name", ["mask", "loss_mask"])
@pytest.mark.parametrize("marks", [[0, 0, 0, 1], [False, True], [1, 0, 1, 1.0]])
def test_a_list_of_marks_has_one_for_each_message_or_each_assistant_message(name, marks):
    assert trained([{"messages": CHAT, name: marks}]) == ["good"]
    assert trained([{"conversations": sharegpt(CHAT), "system": "s", name: marks}]) == ["good"]


@pytest.mark.parametrize("mark", [{"label": False}, {"train": False}, {"kto_tag": False}, {"weight": 0}])
def test_a_marked_row_is_left_out_without_stopping_the_run(mark):
    rows = [{"prompt": "Q", "completion": "BAD", **mark}, {"prompt": "Q", "completion": "good", "label": True}]
    pool = read(rows)
    assert len(pool.examples) == 1 and [row.marked for row in pool.rejected] == [True]
    assert "not to be learnt" in pool.rejected[0].reason and pool.files[0].unused == {}
    with pytest.raises(PoolError, match="All 1 rows are marked as not to be learnt"):
        read(rows[:1])


def test_a_row_whose_turns_are_all_marked_is_left_out():
    pool = read([{"messages": [PLAIN[0], {**GOOD, "weight": 0}]}, {"messages": PLAIN}])
    assert len(pool.examples) == 1 and pool.rejected[0].marked


def test_a_label_that_is_a_class_is_no_mark():
    pool = read(
        [{"prompt": "Q", "completion": "good", "label": "spam"}, {"prompt": "Q", "completion": "x", "label": 0}]
    )
    assert len(pool.examples) == 2 and pool.files[0].unused == {"label": 2}


def test_our_own_training_file_reads_back_to_the_same_masks(tmp_path):
    rows = [{"messages": marked(1, weight=0), "chat_template_kwargs": {"enable_thinking": False}}, {"messages": PLAIN}]
    first = read(rows)
    table = training_table([training_row(e.conversation, e.id, "s") for e in first.examples])
    pq.write_table(table, tmp_path / "train.parquet")
    again = read_pool([tmp_path / "train.parquet"], tokenizer_of("chatml"), PoolOptions())
    for one, other in zip(first.examples, again.examples, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist() and one.trained.tolist() == other.trained.tolist()
        assert one.conversation.template_options == other.conversation.template_options


ASKED = [
    ({"context": "C", "question": "Q", "answer": "good"}, "C\n\nQ"),
    ({"context": "C", "question": "Q", "response": "good"}, "C\n\nQ"),
    ({"prompt": "Q", "input": "I", "response": "good"}, "Q\n\nI"),
    ({"instruction": "Q", "context": "C", "response": "good"}, "Q\n\nC"),
    ({"instruction": "Q", "input": "I", "output": "good"}, "Q\n\nI"),
]


@pytest.mark.parametrize(("row", "asked"), ASKED)
def test_context_and_input_are_part_of_what_is_asked(row, asked):
    (example,) = read([row]).examples
    assert example.conversation.messages == [{"role": "user", "content": asked}, GOOD]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": PLAIN}, {"conversations": sharegpt(PLAIN)}, {"prompt": "Q", "completion": "good"},
        {"prompt": "Q", "response": "good"}, {"question": "Q", "response": "good"}, {"prompt": "Q", "chosen": "good"},
    ],
)  # fmt: skip
def test_a_system_column_is_a_system_message(row, name):
    (example,) = read([{name: "Be a pirate.", **row}]).examples
    assert example.conversation.messages == [{"role": "system", "content": "Be a pirate."}, *PLAIN]


def test_fields_that_are_not_used_are_counted():
    rows = [{"question": "Q", "options": {"A": "x"}, "answer": "good", "note": ""}] * 3 + [
        {"question": "Q", "answer": 7}
    ]
    (file,) = read(rows).files
    assert file.unused == {"options": 3}
    assert unused_fields(file) == "fields that are not used (rows that fill them): options (3)"


def test_variables_for_the_template_reach_it():
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = "{{ '<s>' if deep else '' }}" + tokenizer.chat_template
    rows = [{"messages": PLAIN}, {"messages": PLAIN, "chat_template_kwargs": {"deep": True}}]
    plain, deep = read_pool([rows], tokenizer, PoolOptions()).examples
    assert tokenizer.decode(deep.input_ids.tolist()).replace(" ", "") == "<s>" + tokenizer.decode(
        plain.input_ids.tolist()
    ).replace(" ", "")


def test_a_column_that_does_nothing_is_an_error():
    with pytest.raises(PoolError, match=r"'input' .*does nothing"):
        read([{"messages": PLAIN, "more": "x"}], columns={"input": "more"})


PREFERRED = [
    {"prompt": "Q", "chosen": "good", "rejected": "BAD"},
    {"prompt": "Q", "chosen": PLAIN, "rejected": [PLAIN[0], BAD]},
    {"prompt": [PLAIN[0]], "chosen": [GOOD], "rejected": [BAD]},
    {"chosen": PLAIN, "rejected": [PLAIN[0], BAD]},
    {"prompt": "Q", "chosen": json.dumps(PLAIN), "rejected": "BAD"},
]


@pytest.mark.parametrize("row", PREFERRED)
def test_of_a_preference_the_chosen_answer_is_learnt_once(row):
    pool = read([row])
    assert pool.examples[0].conversation.messages == PLAIN and pool.files[0].unused == {"rejected": 1}
    assert trained([row]) == ["good"]


def test_only_the_last_answer_of_a_preferred_chat_is_learnt():
    assert trained([{"chosen": CHAT, "rejected": CHAT}]) == ["good"]


FORMS = {
    "texts in turn": {"conversations": ["Q", "good"]},
    "messages under other names": {"messages": sharegpt(PLAIN)},
    "a mapping of lists": {"messages": {"role": ["user", "assistant"], "content": ["Q", "good"]}},
    "roles in capitals": {"conversations": [{"from": "USER", "value": "Q"}, {"from": "ASSISTANT", "value": "good"}]},
    "JSON text of a side": {"prompt": json.dumps(PLAIN[:1]), "completion": json.dumps(PLAIN[1:])},
    "blank history": {"instruction": "Q", "output": "good", "history": " "},
    "empty history as text": {"instruction": "Q", "output": "good", "history": "[]"},
    "NaN for nothing": {"instruction": "Q", "input": float("nan"), "output": "good", "system": float("nan")},
}


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_other_forms_of_the_same_chat(row):
    (example,) = read([row]).examples
    assert example.conversation.messages == PLAIN


@pytest.mark.parametrize(("answer", "text"), [(3, "3"), (2.5, "2.5"), (True, "true")])
def test_numbers_and_truth_values_become_text(answer, text):
    assert trained([{"question": "Q", "answer": answer}]) == [text]
    assert trained([{"messages": [PLAIN[0], {"role": "assistant", "content": answer}]}]) == [text]


CALLS = {
    "as a list": {"tool_calls": [{"type": "function", "function": CALL}]},
    "as JSON text": {"tool_calls": json.dumps([{"type": "function", "function": CALL}])},
    "as a list of JSON texts": {"tool_calls": [json.dumps({"type": "function", "function": CALL})]},
    "arguments as JSON text": {"tool_calls": [{"function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}]},
    "OpenAI's form of 2023": {"function_call": {**CALL, "arguments": json.dumps(CALL["arguments"])}},
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("tools", [{"tools": [TOOL]}, {"tools": json.dumps([TOOL])}, {"tools": [json.dumps(TOOL)]},
                                   {"functions": [TOOL["function"]]}])  # fmt: skip
def test_every_way_to_write_a_call_is_the_same_call(call, tools):
    chat = [
        PLAIN[0],
        {"role": "assistant", "content": "", **call},
        {"role": "function", "name": "get_w", "content": "5"},
        GOOD,
    ]
    pool = read([{"messages": chat, **tools}], "tools")
    assert pool.examples[0].conversation.tools == [TOOL] and pool.files[0].unused == {}
    assert trained([{"messages": chat, **tools}], "tools") == [
        '<tool_call>{"name": "get_w", "arguments": {"city": "Oslo"}}</tool_call>', "good"
    ]  # fmt: skip


def test_maps_of_parquet_are_mappings(tmp_path):
    kind = pa.list_(pa.map_(pa.string(), pa.string()))
    values = [[[(key, value) for key, value in message.items()] for message in PLAIN]]
    pq.write_table(pa.table({"messages": pa.array(values, kind)}), tmp_path / "maps.parquet")
    (example,) = read_pool([tmp_path / "maps.parquet"], tokenizer_of("chatml"), PoolOptions()).examples
    assert example.conversation.messages == PLAIN


def test_a_template_that_leaves_out_calls_or_a_system_prompt_is_refused():
    """An empty turn in place of a call would teach the model to say nothing."""
    chat = [
        PLAIN[0],
        {"role": "assistant", "content": "", **CALLS["as a list"]},
        {"role": "tool", "content": "5"},
        GOOD,
    ]
    with pytest.raises(TemplateError, match="leaves out the tool calls of message 2"):
        read([{"messages": chat}])
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "in messages", "in messages if message['role'] != 'system'"
    )
    with pytest.raises(TemplateError, match="leaves out the text of message 1 \\(system\\)"):
        read_pool([[{"messages": PLAIN, "system": "Be a pirate."}]], tokenizer, PoolOptions())


def test_what_a_template_leaves_out_of_answers_is_said():
    """DeepSeek-R1's template removes the thinking from every answer."""
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    notes: list[str] = []
    rows = [{"prompt": "Q", "response": "<think>long thoughts</think>good"}, {"prompt": "Q", "response": "good"}]
    pool = read_pool([rows], tokenizer, PoolOptions(), notes.append)
    assert len(pool.examples) == 2 and len(notes) == 1
    assert "thinking parts: 1 (" in notes[0] and "% of their characters" in notes[0]


LAST_THINKS = """\
{%- set last = namespace(user=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.role == 'assistant' and loop.index0 > last.user and loop.last -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{{- m.content -}}
{%- for call in m.tool_calls or [] -%}{{- '<tool_call>' + call.function | tojson + '</tool_call>' -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@pytest.mark.parametrize("said", ["", "Looking.", "It ends in <|im_end|>"])
def test_turns_of_a_template_that_rewrites_earlier_ones_are_found_beside_tool_calls(said):
    """As Qwen3's: only a last turn opens with an empty thinking part, so no rendering is a prefix of a longer one."""
    tokenizer = copy.deepcopy(tokenizer_of("chatml"))
    tokenizer.chat_template = LAST_THINKS
    call = {"type": "function", "function": {"name": "get_w", "arguments": {"city": "<|im_end|> Oslo"}}}
    chat = [
        PLAIN[0], {"role": "assistant", "content": said, "tool_calls": [call]},
        {"role": "tool", "content": "5 <|im_end|>"}, {"role": "assistant", "content": "It is 5."},
        {"role": "user", "content": "And?"}, GOOD,
    ]  # fmt: skip
    (example,) = read_pool([[{"messages": chat}]], tokenizer, PoolOptions()).examples
    written = [text for text, is_trained in segments(example, tokenizer) if is_trained]
    arguments = '{"name": "get_w", "arguments": {"city": "\\u003c|im_end|\\u003e Oslo"}}'
    assert (
        written[0].replace("<|im_end|> Oslo", "\\u003c|im_end|\\u003e Oslo")
        == f"{said}<tool_call>{arguments}</tool_call><|im_end|>"
    )
    assert written[1:] == ["It is 5.<|im_end|>", "<think>\n\n</think>\n\ngood<|im_end|>"]


def test_marks_are_followed_beside_preferences_and_in_every_format_that_has_turns():
    answer = {**GOOD, "weight": 0}
    pool = read([{"prompt": "Q", "chosen": [PLAIN[0], answer]}, {"prompt": "Q", "chosen": "good"}])
    assert len(pool.examples) == 1 and pool.rejected[0].marked
    assert trained([{"prompt": CHAT[:1], "completion": CHAT[1:], "loss_mask": [0, 1]}]) == ["good"]
    pool = read([{"prompt": "Q", "response": "BAD", "mask": [0]}, {"prompt": "Q", "response": "good", "mask": [1]}])
    assert len(pool.examples) == 1 and pool.rejected[0].marked


def test_variables_for_the_template_stay_with_a_stored_chat(tmp_path):
    (example,) = read([{"messages": PLAIN, "chat_template_kwargs": {"deep": True}}]).examples
    write_texts(tmp_path / "texts.parquet", [example])
    (stored,) = read_texts(tmp_path / "texts.parquet", [0], "")
    assert stored.conversation == example.conversation
