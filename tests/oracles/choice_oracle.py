"""Multiple choice the slow way: one plain forward pass for each choice, in float64 after the logits."""

import torch


def choice_log_probability(model, tokenizer, context: str, continuation: str) -> float:
    """Sum of log p(token | everything before it) over the continuation's tokens."""
    before = tokenizer(context, add_special_tokens=False).input_ids
    after = tokenizer(continuation, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0].double()
    log_probabilities = logits.log_softmax(-1)
    return sum(float(log_probabilities[len(before) + i - 1, token]) for i, token in enumerate(after))


def arc_scores(model, tokenizer, question: str, choices: list[str], gold: int) -> tuple[bool, bool]:
    """Whether the likeliest choice, and the likeliest a character, is the right one."""
    sums = [choice_log_probability(model, tokenizer, f"Question: {question}\nAnswer:", f" {c}") for c in choices]
    normed = [value / len(choice) for value, choice in zip(sums, choices, strict=True)]
    return sums.index(max(sums)) == gold, normed.index(max(normed)) == gold


def true_mass(model, tokenizer, context: str, choices: list[str], labels: list[int]) -> float:
    """Share of the choices' probability that lies on those labelled 1."""
    sums = [choice_log_probability(model, tokenizer, context, f" {choice}") for choice in choices]
    weights = torch.tensor(sums, dtype=torch.float64).softmax(0)
    return float(weights[torch.tensor(labels) == 1].sum())
