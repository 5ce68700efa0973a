"""What `read_pool` promises about a whole pool: order, ids, truncation, and errors a person can act on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.pool_families import tokenizer_of, with_template
from spice_select.errors import ModelError, PoolError, TemplateError
from spice_select.pool.examples import PoolOptions, read_pool

GOOD = {"prompt": "Q", "response": "A"}
U, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


def read(*inputs, family="chatml", **options):
    return read_pool(list(inputs), tokenizer_of(family), PoolOptions(**options))


def test_error_names_five_rows_the_count_and_the_remedy():
    rows = [GOOD] * 3 + [{"prompt": "Q", "response": ""}] * 7
    with pytest.raises(PoolError) as caught:
        read(rows)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "7 of 10 rows" in lines[0]
    assert lines[1].startswith("rows, row 4: field 'response' holds no response (it is empty); rows, row 5:")
    assert "row 8:" in lines[1] and "row 9:" not in lines[1]
    assert "--skip-invalid" in lines[-1]


def test_rejected_rows_keep_their_order_and_the_rest_is_numbered_anew():
    rows = [{"prompt": "Q", "response": ""}, GOOD, {"prompt": [1], "response": "x"}, GOOD]
    pool = read(rows, skip_invalid=True)
    assert [r.number for r in pool.rejected] == [1, 3]
    assert [(e.index, e.row.number) for e in pool.examples] == [(0, 2), (1, 4)]
    assert pool.files[0].rows == 4


def test_no_valid_row_is_an_error_even_when_rows_may_be_skipped():
    with pytest.raises(PoolError, match="No valid row is left: all 2") as caught:
        read([{"prompt": "Q", "response": ""}] * 2, skip_invalid=True)
    assert "skip-invalid" not in str(caught.value)


ids = st.lists(
    st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["a", "a-2", "a-3", "memory-1", " "])), max_size=9
)


@settings(max_examples=60, deadline=None)
@given(given_ids=ids.filter(bool))
def test_ids_are_unique_stable_and_the_first_of_a_name_keeps_it(given_ids):
    rows = [GOOD if name is None else {**GOOD, "id": name} for name in given_ids]
    names = [e.id for e in read(rows).examples]
    assert len(set(names)) == len(names)
    assert names == [e.id for e in read(rows).examples]
    wanted = [f"memory-{n}" if g in (None, " ") else str(g) for n, g in enumerate(given_ids, start=1)]
    for position, name in enumerate(wanted):
        if name not in wanted[:position]:
            assert names[position] == name
        else:
            assert names[position].startswith(f"{name}-")


def test_source_column_is_honoured_row_by_row():
    rows = [{**GOOD, "source": "gsm8k"}, {**GOOD, "source": ""}, {**GOOD, "source": 3}, GOOD]
    examples = read(rows).examples
    assert [e.row.source for e in examples] == ["gsm8k", "memory", "memory", "memory"]
    assert [e.id for e in examples] == ["gsm8k-1", "memory-2", "memory-3", "memory-4"]


def test_truncation_cuts_the_tail_and_is_counted():
    rows = [GOOD, {"prompt": "Q", "response": "fox " * 100}]
    whole = read(rows)
    cut = read(rows, max_length=60)
    assert (whole.truncated, cut.truncated) == (0, 1)
    long, short = whole.examples[1], cut.examples[1]
    assert short.truncated
    assert short.input_ids.tolist() == long.input_ids[:60].tolist()
    assert short.trained.tolist() == long.trained[:60].tolist()
    assert cut.total_tokens == sum(len(e.input_ids) for e in cut.examples)
    assert cut.trained_tokens == sum(e.trained_tokens for e in cut.examples) < whole.trained_tokens


def test_response_cut_off_by_truncation_is_invalid():
    rows = [GOOD, {"prompt": "fox " * 100, "response": "A"}]
    pool = read(rows, max_length=60, skip_invalid=True)
    assert [r.reason[:43] for r in pool.rejected] == ["max_length 60 cuts off the whole response ("]


@pytest.mark.parametrize(
    ("family", "chat", "says"),
    [
        ("gemma", [{"role": "system", "content": "s"}, U, A], "System role not supported"),
        ("gemma", [A, U, A], "must alternate"),
        ("gemma", [U, U, A], "must alternate"),
        ("mistral", [U, A, A], "must alternate"),
        ("plain", [U, A, {"role": "tool", "content": "t"}, A], "no role tool"),
    ],
)
def test_what_a_template_refuses_is_a_reason_of_the_row(family, chat, says):
    rows = [{"messages": [U, A]}, {"messages": chat}]
    pool = read(rows, family=family, skip_invalid=True)
    assert len(pool.examples) == 1
    assert says in pool.rejected[0].reason
    assert pool.rejected[0].reason.startswith("the chat template refuses it: ")
    with pytest.raises(PoolError, match=says):
        read(rows, family=family)


@pytest.mark.parametrize("skip", [False, True])
def test_template_that_refuses_every_row_is_a_template_error(skip):
    rows = [{"messages": [{"role": "system", "content": "s"}, U, A]}] * 30
    with pytest.raises(TemplateError, match=r"Every row .* row 1: .*System role not supported") as caught:
        read(rows, family="gemma", skip_invalid=skip)
    assert len(str(caught.value).splitlines()) <= 3


def test_tokenizer_without_template_and_eos_is_a_template_error():
    tokenizer = with_template("plain", None)
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="neither a chat template nor an eos token"):
        read_pool([[GOOD]], tokenizer)


def test_named_templates_without_a_default_are_a_template_error():
    tokenizer = with_template("chatml", {"rag": "{{ messages }}", "tool_use": "{{ messages }}"})
    with pytest.raises(TemplateError, match="No chat template can be chosen"):
        read_pool([[GOOD]], tokenizer)


def test_pool_larger_than_a_batch_keeps_its_order():
    rows = [{"prompt": f"Q {n}", "response": f"A {n}" if n % 100 else ""} for n in range(2500)]
    pool = read(rows, skip_invalid=True)
    assert [e.row.number for e in pool.examples] == [n + 1 for n in range(2500) if n % 100]
    assert [r.number for r in pool.rejected] == [n + 1 for n in range(0, 2500, 100)]


def test_python_tokenizers_are_refused():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = tokenizer_of("chatml").chat_template
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        read_pool([[GOOD]], tokenizer)
