"""SelectIT from probabilities to the files of a run, against plain passes of the model, one text after another."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from oracles import method_oracle as oracle
from oracles.forked import spice
from oracles.runs import byte_tokenizer, chat_rows, read_jsonl, write_jsonl
from spice_select import select
from spice_select.config import resolve
from spice_select.errors import ConfigError, ModelError, OutputError
from spice_select.methods import ORDERS, RowFacts
from spice_select.methods.selectit import PROMPTS, QUESTION, model_level, sentence_level, token_level
from spice_select.pool.messages import Conversation
from spice_select.prepared import prepare
from spice_select.progress import NoProgress
from spice_select.schedule.rating import Rater, instruction_and_response, ratings

PROBABILITIES = st.lists(st.floats(1e-6, 1.0), min_size=5, max_size=5)
METHOD = {"method": "selectit", "budget": "6"}


class Notes(NoProgress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A smaller model than the tiny one, with the same tokenizer."""
    torch.manual_seed(5)
    place, tokenizer = tmp_path_factory.mktemp("judge"), byte_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


@given(st.lists(st.lists(PROBABILITIES, min_size=3, max_size=3), min_size=2, max_size=2), st.floats(0, 3))
def test_the_three_levels_are_those_of_the_definition(probabilities, a) -> None:
    """Of two models over one row and three prompts; the probabilities need not have sum 1."""
    found = np.array(probabilities)[:, None]
    levels = model_level(np.stack([sentence_level(token_level(of_model), a) for of_model in found]), [100, 300])
    assert levels == pytest.approx(oracle.selectit(found, [100, 300], a), rel=1e-9, abs=1e-12)
    assert ((token_level(found) >= 0) & (token_level(found) <= 5)).all()


def test_the_highest_score_comes_first() -> None:
    """What differs by rounding ties, and goes to the lower row; a row without a score comes last."""
    assert ORDERS["selectit"](RowFacts([1] * 5, 0, scores=[1.0, math.nan, 2.0, 3.0 - 1e-8, 3.0])) == [3, 4, 2, 0, 1]


def probabilities_of(place: str, rows: list[dict], count: int) -> np.ndarray:
    """Of the scores after each row's texts [n, count, 5], in float64, from the definition of a text."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place).eval().double(), AutoTokenizer.from_pretrained(place)
    found = np.empty((len(rows), count, 5))
    for i, row in enumerate(rows):
        question, answer = (message["content"] for message in row["messages"])
        for k, prompt in enumerate(PROMPTS[:count]):
            text = f"{prompt}\nInstruction: {question}\nResponse: {answer}\nThe answer is:\n"
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1]
            shares = logits.softmax(-1)
            found[i, k] = [float(shares[tokenizer.convert_tokens_to_ids(score)]) for score in "12345"]
    return found


@pytest.mark.parametrize("batch_tokens", [1, 2000, 8192])
def test_ratings_are_those_of_plain_passes(tiny_model, judge, batch_tokens):
    """Whatever the batches; models count by their parameters, the proxy included."""
    rows = chat_rows(5, seed=3)
    options = {"model": tiny_model, "judge": [judge], "batch_tokens": batch_tokens}
    prepared = prepare([rows], resolve({}, {**METHOD, **options, "constants": {"K": 3, "a": 0.5}}), NoProgress())
    proxy = prepared.proxy(NoProgress())
    sized = type(proxy)(proxy.model, {}, batch_tokens)
    probabilities = np.stack([probabilities_of(place, rows, 3) for place in (tiny_model, judge)])
    counts = [sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(place).parameters())
              for place in (tiny_model, judge)]  # fmt: skip
    assert ratings(prepared, sized, NoProgress()) == pytest.approx(
        oracle.selectit(probabilities, counts, 0.5), abs=2e-5
    )


def test_batches_decide_no_pick(tiny_model):
    """Copies of rows, which tie, included."""
    rows = [*chat_rows(12), *({**row, "id": f"copy-{i}"} for i, row in enumerate(chat_rows(12)))]
    picks = [select(rows, model=tiny_model, **METHOD, constants={"K": 2}, batch_tokens=budget).indices
             for budget in (1, 3000, 9000)]  # fmt: skip
    assert picks[0] == picks[1] == picks[2]
    assert all(row - 12 in picks[0] for row in picks[0] if row >= 12), "the lower of two copies comes first"


def test_a_text_that_is_too_long_keeps_prompt_and_question(tiny_model):
    """Instruction and response lose their ends, each no more than it has to, and the rows are counted."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [
        {"prompt": "q" * 3000, "completion": "short"},
        {"prompt": "q", "completion": "r" * 3000},
        {"prompt": "q" * 900, "completion": "r" * 900},
        {"prompt": "q", "completion": "r"},
    ]
    options = {**METHOD, "budget": "2", "model": tiny_model, "max_length": 500, "chat_template": None}
    rows[0]["prompt"] = "q" * 380  # the row itself must keep a token of its response
    prepared = prepare([rows], resolve({}, {**options, "max_length": 920}), NoProgress())
    texts = Rater(tiny_model, tokenizer, 500).texts(PROMPTS[0], prepared.pool.examples)
    fixed = len(f"{PROMPTS[0]}\nInstruction: \nResponse: {QUESTION}")
    kept = [(380, 5), (1, 499 - fixed), ((500 - fixed) // 2, 500 - fixed - (500 - fixed) // 2), (1, 1)]
    for text, (q, r) in zip(texts, kept, strict=True):
        expected = f"{PROMPTS[0]}\nInstruction: {'q' * q}\nResponse: {'short' if q == 380 else 'r' * r}{QUESTION}"
        cut = len(expected) > 500
        assert cut or tokenizer.decode(text.input_ids) == expected
        assert len(text.input_ids) <= 500 and tokenizer.decode(text.input_ids).endswith(QUESTION)
        assert tokenizer.decode(text.input_ids).startswith(f"{PROMPTS[0]}\nInstruction: q")
    assert [text.shortened for text in texts] == [fixed + 385 > 500, True, True, False]
    notes = Notes()
    select(rows, **{**options, "max_length": 920, "constants": {"K": 1}}, progress=notes)
    assert any(line == "rows whose rating texts were cut to 920 tokens: 2" for line in notes.lines), notes.lines
    with pytest.raises(ConfigError, match=r"leaves no room beside selectit's rating prompts; give at least \d+"):
        select(rows[3:], **{**options, "budget": "1", "max_length": 64})


def test_the_response_is_the_last_trained_turn():
    """What comes before it is the instruction, with roles where it is more than one message; calls are written out."""
    user, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    assert instruction_and_response(Conversation([user, answer])) == ("Q", "A")
    system = {"role": "system", "content": "S"}
    chat = Conversation([system, user, answer, user, answer, {"role": "user", "content": "thanks"}])
    assert instruction_and_response(chat) == ("System: S\nUser: Q\nAssistant: A\nUser: Q", "A")
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    assert instruction_and_response(Conversation([user, call])) == ("Q", json.dumps(call["tool_calls"]))


def test_a_tokenizer_that_joins_a_score_to_what_is_before_it_is_refused():
    tokenizer = byte_tokenizer()
    vocabulary = {**tokenizer.get_vocab(), "Ċ1": len(tokenizer)}
    joined = Tokenizer(models.BPE(vocabulary, [("Ċ", "1")]))
    joined.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    with pytest.raises(ModelError, match=r"the scores 1 to 5 as one token each(.|\n)*--judge"):
        Rater("joined", type(tokenizer)(tokenizer_object=joined), 2048)


def test_a_run_names_its_constants_and_judges_and_goes_on_only_with_the_same(tiny_model, judge, tmp_path):
    pool = write_jsonl(tmp_path / "p.jsonl", chat_rows(20))
    arguments = ["run", pool, "--model", tiny_model, "--method", "selectit", "--output", tmp_path / "r",
                 "--constant", "K=2", "--judge", judge]  # fmt: skip
    done = spice(*arguments, "--budget", "150tok")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["config"]["constants"] == {"K": 2, "a": 0.2} and manifest["config"]["judge"] == [judge]
    assert [named["name"] for named in manifest["model"]["judges"]] == [judge]
    assert "ratings 2/2 by" in done.stderr and read_jsonl(tmp_path / "r" / "selected.jsonl")
    again = spice("run", "--config", tmp_path / "r" / "run.yaml", "--output", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert read_jsonl(tmp_path / "again" / "selected.jsonl") == read_jsonl(tmp_path / "r" / "selected.jsonl")
    expected = spice(*arguments, "--budget", "5", "--dry-run")
    assert "not timed: 2 passes over all rows by each judge" in expected.stderr and "forecast" in expected.stdout
    options = {"model": tiny_model, "method": "selectit", "budget": "150tok", "output": tmp_path / "r"}
    with pytest.raises(OutputError, match="constants"):
        select(pool, judge=judge, constants={"K": 3}, existing="resume", **options)
    with pytest.raises(OutputError, match="judge"):
        select(pool, constants={"K": 2}, existing="resume", **options)


@pytest.mark.parametrize("method", ["selectit", "fishersft"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "p.jsonl", "--target", "t.jsonl"], "target goes with the methods"),
        (["run", "p.jsonl", "--candidates", "40"], "chooses among all rows"),
        (["run", "p.jsonl", "--features", "states"], "features states goes with"),
        (["run", "p.jsonl", "--stop-ratio", "0.5"], "stop_ratio belongs to"),
        (["run", "p.jsonl", "--quota", "a=10%"], "quota goes with"),
        (["pick", "store"], "store"),
    ],
)
def test_options_that_do_not_fit_end_in_a_line(method, arguments, message, tmp_path):
    done = spice(*arguments, "--method", method, "--output", tmp_path / "r")
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 2, done.stderr
    assert message in done.stderr


def test_judges_go_with_selectit_and_are_named_once():
    with pytest.raises(ConfigError, match="judge goes with selectit, not with ifd"):
        resolve({}, {"method": "ifd", "judge": "m"})
    with pytest.raises(ConfigError, match="name each model once"):
        resolve({}, {"method": "selectit", "judge": ["m", "m"]})
