"""Make the runs that the scripts read: every kind of mark, under several chat templates, for tiny random models.

Run in the project's own environment (README.md): python make_runs.py FOLDER. For each template FOLDER/NAME gets
`model`, `run` with its tokens, and `labels.parquet`, the tokens and labels of `training_dataset`. All models have the
vocabulary of the embedded one. A row's source is its kind, by which the scripts count. Every row says in `learnt` which
texts are to be learnt; that is compared with the marks in `train.parquet`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import trl
from transformers import LlamaConfig, LlamaForCausalLM

from spice_select import select, training_dataset
from spice_select.config import RunConfig
from spice_select.proxy.loading import load_tokenizer, model_source

Row = dict[str, Any]
OURS = Path(__file__).parents[2] / "tests" / "templates"
THEIRS = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = {
    "embedded": None,
    "chatml": OURS / "chatml_tools.jinja",
    "generation": OURS / "chatml_generation.jinja",
    "qwen3": THEIRS / "qwen3.jinja",
    "qwen3-generation": THEIRS / "qwen3_training.jinja",
}

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": CITY}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
ASK, ANSWER = {"role": "user", "content": "Ask?"}, {"role": "assistant", "content": "Answer."}
MORE, LAST = {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "The last one."}
SYSTEM = {"role": "system", "content": "Be short."}
CHAT = [ASK, ANSWER, MORE, LAST]
BOTH = ["Answer.", "The last one."]


def with_mark(chat: list[Row], place: int, **mark: Any) -> list[Row]:
    """The chat with a mark on one message."""
    return [message | mark if i == place else message for i, message in enumerate(chat)]


def sharegpt(chat: list[Row]) -> list[Row]:
    """The chat under ShareGPT's names."""
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    rest = [{k: v for k, v in m.items() if k not in ("role", "content")} for m in chat]
    return [{"from": names[m["role"]], "value": m["content"]} | r for m, r in zip(chat, rest, strict=True)]


def kinds() -> dict[str, list[Row]]:
    """The rows of each kind."""
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    told = {"role": "tool", "name": "weather", "content": '{"sky": "clear"}'}
    tools = [ASK, called, told, ANSWER]
    thought = "<think>\nIt is a test.\n</think>\n\nYes."
    think = [ASK, {"role": "assistant", "content": thought}]
    reason = [ASK, {"role": "assistant", "reasoning_content": "It is a test.", "content": "Yes."}]
    odd = [
        "Ask?",
        "A",
        " padded ",
        "assistant",
        "<|im_end|> no end",
        "日本語 🙂 é",
        "line\n\nline\n",
        "two<|im_start|>user\nx",
    ]
    return {
        "several": [{"messages": CHAT, "learnt": BOTH}, {"messages": CHAT * 3, "learnt": BOTH * 3}],
        "messages-train": [
            {"messages": with_mark(CHAT, 1, train=False), "learnt": BOTH[1:]},
            {"messages": with_mark(CHAT, 3, train=False), "learnt": BOTH[:1]},
            {"messages": with_mark(CHAT, 1, train=True), "learnt": BOTH},
            {"messages": with_mark(CHAT * 3, 5, train=False), "learnt": [*BOTH, "The last one.", *BOTH]},
            {"messages": [ASK, LAST | {"train": False}, MORE, LAST], "learnt": BOTH[1:]},
        ],
        "messages-weight": [
            {"messages": with_mark(CHAT, 1, weight=0), "learnt": BOTH[1:]},
            {"messages": with_mark(CHAT, 3, weight=0.0), "learnt": BOTH[:1]},
            {"messages": with_mark(CHAT, 1, weight=1), "learnt": BOTH},
        ],
        "sharegpt-train": [
            {"conversations": sharegpt(with_mark(CHAT, 1, train=False)), "learnt": BOTH[1:]},
            {"conversations": sharegpt(with_mark([SYSTEM, *CHAT], 4, loss=False)), "learnt": BOTH[:1]},
            {"conversations": sharegpt(CHAT), "learnt": BOTH},
        ],
        "mask-lists": [
            {"messages": CHAT, "mask": [0, 0, 0, 1], "learnt": BOTH[1:]},
            {"messages": [SYSTEM, *CHAT], "loss_mask": [1, 0], "learnt": BOTH[:1]},
            {"messages": CHAT, "mask": [0, 1, 0, 1], "learnt": BOTH},
        ],
        "prompt-side": [
            {"prompt": CHAT[:3], "completion": [LAST], "learnt": BOTH[1:]},
            {"prompt": [SYSTEM, *CHAT, ASK], "completion": "Done.", "learnt": ["Done."]},
            {"prompt": "Ask?", "completion": "Done.", "learnt": ["Done."]},
        ],
        "kto": [
            {"prompt": "Ask?", "completion": "Good.", "label": True, "learnt": ["Good."]},
            {"prompt": "Ask?", "completion": "Bad.", "label": False, "learnt": None},
            {"prompt": CHAT[:3], "completion": [LAST], "label": True, "learnt": BOTH[1:]},
        ],
        "preference": [
            {"prompt": "Ask?", "chosen": "Good.", "rejected": "Bad.", "learnt": ["Good."]},
            {"chosen": CHAT, "rejected": [*CHAT[:3], ANSWER], "learnt": BOTH[1:]},
            {"prompt": "Ask?", "chosen": [ASK, ANSWER], "rejected": [ASK, LAST], "learnt": BOTH[:1]},
        ],
        "system": [
            {"messages": [SYSTEM, *CHAT], "learnt": BOTH},
            {"messages": [{"role": "system", "content": "Two\n\nlines. "}, *CHAT[:2]], "learnt": BOTH[:1]},
        ],
        "tools": [
            {"messages": tools, "tools": TOOLS, "learnt": ["", "Answer."]},
            {"messages": [SYSTEM, *tools, MORE, LAST], "tools": TOOLS, "learnt": ["", *BOTH]},
            {"messages": tools[:2], "tools": TOOLS, "learnt": [""]},
            {"messages": [ASK, called | {"content": "I look."}, *tools[2:]], "tools": TOOLS,
             "learnt": ["I look.", "Answer."]},
            {"messages": [ASK, called | {"tool_calls": [CALL, CALL]}, told, told, ANSWER], "tools": TOOLS,
             "learnt": ["", "Answer."]},
            {"messages": CHAT, "tools": TOOLS, "learnt": BOTH},
        ],
        "tools-train": [
            {"messages": with_mark(tools, 1, train=False), "tools": TOOLS, "learnt": ["Answer."]},
            {"messages": with_mark(tools, 3, train=False), "tools": TOOLS, "learnt": [""]},
        ],
        "thinking": [
            {"messages": think, "learnt": [thought]},
            {"messages": [*think, *CHAT[2:]], "learnt": [thought, "The last one."]},
            {"messages": with_mark([*think, *think], 1, train=False), "learnt": [thought]},
            {"messages": [ASK, {"role": "assistant", "content": "<think>\n\n</think>\n\nYes."}],
             "learnt": ["<think>\n\n</think>\n\nYes."]},
        ],
        "reasoning-field": [
            {"messages": reason, "learnt": ["Yes."]},
            {"messages": [*CHAT, *reason], "learnt": [*BOTH, "Yes."]},
        ],
        "template-kwargs": [
            {"messages": CHAT[:2], "chat_template_kwargs": {"enable_thinking": False}, "learnt": BOTH[:1]},
            {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": True}, "learnt": BOTH},
        ],
        "odd-texts": [{"messages": [ASK, {"role": "assistant", "content": text}], "learnt": [text]} for text in odd]
        + [{"messages": [ASK, {"role": "assistant", "content": odd[0]}, MORE, {"role": "assistant", "content": odd[2]}],
            "learnt": [odd[0], odd[2]]}],
    }  # fmt: skip


def main() -> int:
    folder = Path(sys.argv[1])
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for kind, rows in kinds().items():
        lines = [json.dumps({"id": f"{kind}-{n}"} | row, ensure_ascii=False) + "\n" for n, row in enumerate(rows, 1)]
        (pool / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, template in TEMPLATES.items():
        make_run(folder / name, sorted(pool.glob("*.jsonl")), template)
    return 0


def make_run(folder: Path, pool: list[Path], template: Path | None) -> None:
    tokenizer = load_tokenizer(model_source(RunConfig()))
    if template is not None:
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    result = select(
        pool, output=folder / "run", existing="overwrite", method="random", budget="100%", skip_invalid=True,
        model=str(folder / "model"),
    )  # fmt: skip
    for rejected in result.pool.rejected:
        print(f"{folder.name}: {rejected.source} row {rejected.number} is left out: {rejected.reason}")
    table = pq.read_table(folder / "run" / "train.parquet").to_pylist()
    for row, given in zip(table, result.rows, strict=True):
        trained = [m for m in row["messages"] if m["role"] == "assistant" and m.get("train") is not False]
        assert [m["content"] or "" for m in trained] == given["learnt"], row["id"]
    labelled = training_dataset(folder / "run" / "train.parquet", tokenizer)
    assert len(labelled) == len(table)
    labelled.to_parquet(folder / "labels.parquet")
    for trainer in ("llamafactory.yaml", "axolotl.yaml"):
        subprocess.run([sys.executable, folder / "run" / "make_tokens.py", trainer], check=True)
    print(f"{folder.name}: {len(table)} rows chosen, {len(result.pool.rejected)} left out")


if __name__ == "__main__":
    sys.exit(main())
