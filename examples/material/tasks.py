"""The makers of the example pool's rows: each yields tasks with right answers, and wrong ones where they can be made.

What can be checked is checked here: each worked step is calculated again, each function is run, and each answer that
is meant to be wrong must fail the same check.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

from material.functions import FUNCTIONS, Function
from material.problems import NAMES, PROBLEMS, THINGS, Problem
from material.texts import LISTS, REGISTERS, TABLES, TENSES, VOICES, Table

SYSTEM_PROMPTS = ("You are a patient tutor.", "Answer briefly and exactly.", "You explain each step in plain words.")

Message = dict[str, str]


class Item(NamedTuple):
    """A question in two wordings, its answer, and a wrong answer where one can be made."""

    asks: tuple[str, str]
    answer: str
    wrong: str | None = None


class Worked(NamedTuple):
    """A word problem with its numbers filled in."""

    problem: Problem
    values: dict[str, Any]


def chat(*texts: str) -> list[Message]:
    """Turn texts into messages of the user and the assistant by turns."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def evaluate(expression: str, values: dict[str, Any]) -> int:
    """Calculate an expression of a problem; every result is a whole number."""
    result = eval(expression, {"__builtins__": {}}, values)
    if result != int(result):
        raise ValueError(f"{expression} is {result} for {values}: not a whole number")
    return int(result)


def draw(problem: Problem, rng: Random) -> Worked:
    """Choose a problem's numbers."""
    values: dict[str, Any] = {"name": rng.choice(NAMES), "thing": rng.choice(THINGS)}
    for key, rule in problem.numbers.items():
        if isinstance(rule, str):
            values[key] = evaluate(rule, values)
        else:
            values[key] = rng.randrange(rule[0], rule[1] + 1, rule[2])
    return Worked(problem, values)


def shown(expression: str, values: dict[str, Any]) -> str:
    """Write an expression as a person would, with its numbers filled in."""
    filled = re.sub(r"[a-z]\w*", lambda found: str(values[found.group()]), expression)
    return filled.replace("*", "×").replace("/", "÷")


def solve(worked: Worked, style: int, slip: int = 0) -> str:
    """Write the solution as prose (style 0), a numbered list (1) or bare lines (2); `slip` falsifies the result."""
    problem, values = worked.problem, dict(worked.values)
    steps, lines = [], []
    for i, (sentence, expression) in enumerate(problem.steps, start=1):
        result = evaluate(expression, values) + (slip if i == len(problem.steps) else 0)
        step = f"{shown(expression, values)} = {result}"
        values |= {f"r{i}": result, "r": result}
        steps.append(step)
        lines.append(sentence.format(e=step, **values))
    closing = problem.closing.format(**values)
    if style == 0:
        return " ".join([*lines, closing])
    if style == 1:
        return "\n".join(f"{i}. {line}" for i, line in enumerate(lines, start=1)) + f"\n\n{closing}"
    return "\n".join([*steps, f"Answer: {values['r']}"])


def arithmetic_holds(text: str) -> bool:
    """Calculate every `a × b = c` in a text again and say whether all are right."""
    equations = re.findall(r"(\d+(?: [-+×÷] \d+)+) = (-?\d+)", text)
    return bool(equations) and all(
        eval(left.replace("×", "*").replace("÷", "/"), {"__builtins__": {}}) == int(right) for left, right in equations
    )


def word_problems(rng: Random) -> Iterator[Item]:
    """Yield word problems without end, going round the scenarios."""
    while True:
        for problem in rng.sample(PROBLEMS, len(PROBLEMS)):
            worked, style = draw(problem, rng), rng.randrange(3)
            right, wrong = solve(worked, style), solve(worked, style, slip=rng.choice((-3, -2, -1, 1, 2, 5, 10)))
            assert arithmetic_holds(right), right
            assert not arithmetic_holds(wrong), wrong
            first, second = (ask.format(**worked.values) for ask in problem.asks)
            yield Item((first, second), right, wrong)


def call(code: str, expression: str) -> object:
    """Run a function of the material and return what a call gives."""
    scope: dict[str, Any] = {}
    exec(code, scope)
    return eval(expression, scope)


def verify(function: Function) -> None:
    """Run a function against its calls; its broken version must fail one of them."""
    for expression, expected in function.calls.items():
        assert call(function.code, expression) == expected, expression
    if function.bug:
        broken = function.code.replace(*function.bug)
        assert any(call(broken, e) != expected for e, expected in function.calls.items()), function.bug


def write_task(function: Function, rng: Random) -> Item:
    """Ask for the function itself."""
    expression, result = rng.choice(list(function.calls.items()))
    ending = rng.choice(
        (
            function.remark,
            f"For example, `{expression}` gives `{result!r}`.",
            f"{function.remark} So `{expression}` is `{result!r}`.",
        )
    )
    wrong = function.bug and f"```python\n{function.code.replace(*function.bug)}\n```\n\n{ending}"
    return Item(function.asks, f"```python\n{function.code}\n```\n\n{ending}", wrong)


def predict_task(function: Function, rng: Random) -> Item:
    """Ask what a call of the function returns; the wrong answer is what the broken version returns."""
    expression, wrong = rng.choice(list(function.calls)), None
    if function.bug:
        broken = function.code.replace(*function.bug)
        expression = next(e for e, expected in function.calls.items() if call(broken, e) != expected)
        wrong = f"It returns `{call(broken, expression)!r}`."
    block = f"\n\n```python\n{function.code}\n```"
    asks = (f"What does `{expression}` return?{block}", f"Given this function, what is `{expression}`?{block}")
    return Item(asks, f"It returns `{function.calls[expression]!r}`. {function.remark}", wrong)


def code_tasks(rng: Random) -> Iterator[Item]:
    """Yield two tasks for each function, in random order."""
    for function in FUNCTIONS:
        verify(function)
    tasks = [task(function, rng) for function in FUNCTIONS for task in (write_task, predict_task)]
    yield from rng.sample(tasks, len(tasks))


def entries(table: Table) -> list[dict[str, str]]:
    """Split a table's rows into fields."""
    columns = table.columns.split(", ")
    return [dict(zip(columns, row.split(", ", len(columns) - 1), strict=True)) for row in table.rows]


def fact_item(table: Table, number: int, entry: dict[str, str], rng: Random) -> Item:
    """Ask a table's question about one entry; the wrong answer takes a field from another entry."""
    (first, second), answer, swapped = table.questions[number]
    wrong = None
    if swapped:
        other = rng.choice(sorted({row[swapped] for row in entries(table)} - {entry[swapped]}))
        wrong = answer.format(**{**entry, swapped: other})
    return Item((first.format(**entry), second.format(**entry)), answer.format(**entry), wrong)


def facts(rng: Random) -> Iterator[Item]:
    """Yield every question about every entry, in random order."""
    items = [
        fact_item(table, number, entry, rng)
        for table in TABLES
        for number in range(len(table.questions))
        for entry in entries(table)
    ]
    yield from rng.sample(items, len(items))


def lower_first(text: str) -> str:
    """Lower the first letter, unless the word is `I`."""
    return text if text.startswith("I ") else text[0].lower() + text[1:]


def rewriting(rng: Random) -> Iterator[Item]:
    """Yield rewriting tasks of four kinds, in random order."""
    items: list[Item] = []

    def add(asks: tuple[str, str], given: str, wanted: str) -> None:
        items.append(Item((asks[0].format(given), asks[1].format(given)), wanted))

    for subject, verb, thing, participle in (row.split("; ") for row in VOICES):
        active = f"{subject} {verb} {thing}."
        passive = f"{thing[0].upper()}{thing[1:]} {participle} by {lower_first(subject)}."
        add(("Put this sentence into the passive voice: {}", "Rewrite in the passive.\n\n{}"), active, passive)
        add(("Make this sentence active: {}", "Rewrite with the doer as the subject.\n\n{}"), passive, active)
    for informal, formal in (row.split("; ") for row in REGISTERS):
        add(("Make this sound formal: {}", 'Rephrase for a business letter.\n\n"{}"'), informal, formal)
        add(("Say this more casually: {}", 'How would I put this to a friend?\n\n"{}"'), formal, informal)
    for topic, listed in (row.split("; ") for row in LISTS):
        parts = listed.split(", ")
        bullets = "\n".join(f"- {part}" for part in parts)
        sentence = f"{topic} {', '.join(parts[:-1])} and {parts[-1]}."
        add(
            ("Turn the list into one sentence.\n\n{}", "Write this as a single sentence:\n{}"),
            f"{topic}:\n{bullets}",
            sentence,
        )
        add(
            ("Show the items as bullet points: {}", "Break this up into a list.\n\n{}"),
            sentence,
            f"{topic}:\n{bullets}",
        )
    for subject, *forms in (row.split("; ") for row in TENSES):
        old, new = rng.sample(range(3), 2)
        tense = ("past", "present", "future")[new]
        add(
            (f"Change to the {tense} tense: {{}}", f"{{}}\n\nWrite that sentence in the {tense} tense."),
            f"{subject} {forms[old]}.",
            f"{subject} {forms[new]}.",
        )
    yield from rng.sample(items, len(items))


def problem_chat(rng: Random) -> list[Message]:
    """Solve a problem, then again with one number changed."""
    free = [p for p in PROBLEMS if not any(isinstance(rule, str) for rule in p.numbers.values())]
    worked = draw(rng.choice(free), rng)
    key, (low, high, step) = next((k, rule) for k, rule in worked.problem.numbers.items() if isinstance(rule, tuple))
    old = worked.values[key]
    new = rng.choice([n for n in range(low, high + 1, step) if n != old])
    changed = Worked(worked.problem, worked.values | {key: new})
    texts = [
        rng.choice(worked.problem.asks).format(**worked.values),
        solve(worked, rng.randrange(2)),
        rng.choice((f"And with {new} instead of {old}?", f"Now suppose the {old} were {new}.")),
        solve(changed, 0),
    ]
    if rng.random() < 0.5:
        texts += ["Just the calculation, please.", solve(changed, 2)]
    return chat(*texts)


def fact_chat(rng: Random) -> list[Message]:
    """Ask the same about two entries, then something else about the second."""
    table = rng.choice([table for table in TABLES if len(table.questions) == 2])
    one, two = rng.sample(entries(table), 2)
    number = rng.randrange(2)
    first, second, third = (fact_item(table, n, e, rng) for n, e in ((number, one), (number, two), (1 - number, two)))
    texts = [rng.choice(first.asks), first.answer, f"Thanks. Another one: {second.asks[0]}", second.answer]
    return chat(*texts, *((rng.choice(third.asks), third.answer) if rng.random() < 0.5 else ()))


def code_chat(rng: Random) -> list[Message]:
    """Ask for a function, for a call of it, and for a remark."""
    function = rng.choice(FUNCTIONS)
    expression, result = rng.choice(list(function.calls.items()))
    return chat(
        rng.choice(function.asks),
        f"```python\n{function.code}\n```",
        f"What is `{expression}` then?",
        f"`{result!r}`",
        rng.choice(("Anything to keep in mind?", "Can you say a word on how it works?")),
        function.remark,
    )


def letter_chat(rng: Random) -> list[Message]:
    """Make a note formal, then turn it into a letter."""
    informal, formal = rng.choice(REGISTERS).split("; ")
    to, sender = rng.sample(NAMES, 2)
    return chat(
        f"Make this sound formal: {informal}",
        formal,
        f"Turn it into a short letter to {to}, signed {sender}.",
        f"Dear {to},\n\n{formal}\n\nKind regards,\n{sender}",
    )


def chats(rng: Random) -> Iterator[list[Message]]:
    """Yield chats of two or three exchanges without end, every third with a system prompt."""
    kinds: tuple[Callable[[Random], list[Message]], ...] = (problem_chat, fact_chat, code_chat, fact_chat, letter_chat)
    for count in range(sys.maxsize):
        messages = kinds[count % len(kinds)](rng)
        yield [{"role": "system", "content": rng.choice(SYSTEM_PROMPTS)}, *messages] if count % 3 == 0 else messages
