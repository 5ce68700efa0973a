"""Ratings of all rows for SelectIT: passes of the proxy, and of further models, over K rating prompts with each row.

A rating text is plain, without a chat template: the rating prompt, `Instruction:` and what the chat says before its
last trained turn (with the roles' names where that is more than one message), `Response:` and that turn, the question.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from transformers import PreTrainedTokenizerBase

from spice_select.constants import SelectIt
from spice_select.errors import ConfigError, ModelError
from spice_select.gradients.loss import ATTENTION, TokenRow, collate, output_layer_given
from spice_select.gradients.memory import explain_out_of_memory
from spice_select.methods.selectit import PROMPTS, QUESTION, SCORES, model_level, sentence_level, token_level
from spice_select.pool.examples import Example
from spice_select.pool.messages import Conversation, Message
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.loading import load_model, load_tokenizer
from spice_select.proxy.lora import Proxy
from spice_select.schedule.batching import LESS_AT_ONCE, with_batch_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RATING = "its rating is not finite"
_FEWEST = 16  # tokens of instruction and response together that a rating text must have room for


class RatingText:
    """The tokens of a rating text; the model's next token is the score."""

    def __init__(self, input_ids: npt.NDArray[np.int32], *, shortened: bool) -> None:
        self.input_ids, self.shortened = input_ids, shortened
        self.trained: npt.NDArray[np.bool_] = np.zeros(len(input_ids), dtype=np.bool_)


class Rater:
    """Writes rating texts for one model."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        """Find the tokens of the scores.

        Raises `ModelError` if these are not one token each, `ConfigError` if `max_length` has no room for a prompt.
        """
        self.name, self._tokenizer, self._most = name, tokenizer, max_length
        begun = cast(list[int], tokenizer("a", verbose=False)["input_ids"])
        self._begin = begun[:1] if tokenizer.bos_token_id is not None and begun[0] == tokenizer.bos_token_id else []
        alone, *scored = (self._encoded(QUESTION + score)[0] for score in ("", *SCORES))
        self.scores = [ids[-1] for ids in scored]
        if any(ids[:-1] != alone for ids in scored) or len({*self.scores}) < len(SCORES):
            raise ModelError(
                f"{name}: its tokenizer does not write the scores {SCORES[0]} to {SCORES[-1]} as one token each, so "
                "selectit cannot read how likely they are.\nChoose another model (--model, --judge)."
            )
        longest = max(len(self._begin) + len(self._encoded(_text(prompt, "", "")[0])[0]) for prompt in PROMPTS)
        if longest + _FEWEST > max_length:
            raise ConfigError(
                f"max_length {max_length} leaves no room beside selectit's rating prompts; give at least "
                f"{longest + _FEWEST}."
            )

    def texts(self, prompt: str, rows: Sequence[Example]) -> list[RatingText]:
        """The rating text of each row. Of one that is too long, the ends of instruction and response are left out."""
        return [self._tokens(*_text(prompt, *instruction_and_response(row.conversation))) for row in rows]

    def _tokens(self, text: str, borders: Sequence[int]) -> RatingText:
        ids, starts = self._encoded(text)
        whole, room = np.array([*self._begin, *ids], dtype=np.int32), self._most - len(self._begin)
        if len(ids) <= room:
            return RatingText(whole, shortened=False)
        part = np.searchsorted(borders, starts, side="right")
        instruction, response = (np.flatnonzero(part == number) for number in (1, 3))
        room -= len(ids) - len(instruction) - len(response)
        kept = min(len(instruction), max(room // 2, room - len(response)))  # half of it, or what the other leaves
        left_out = np.concatenate([instruction[kept:], response[room - kept :]])
        return RatingText(np.delete(whole, left_out + len(self._begin)), shortened=True)

    def _encoded(self, text: str) -> tuple[list[int], list[int]]:
        """Tokens, and at which character each starts."""
        found: Any = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return found["input_ids"], [start for start, _ in found["offset_mapping"]]


def instruction_and_response(chat: Conversation) -> tuple[str, str]:
    """What the chat says before its last trained turn, and that turn."""
    last = chat.trained_turns()[-1]
    before = chat.messages[:last]
    said = [_said(message) for message in before]
    if len(before) > 1:
        said = [f"{message['role'].capitalize()}: {text}" for message, text in zip(before, said, strict=True)]
    return "\n".join(said), _said(chat.messages[last])


def raters(prepared: Prepared) -> list[Rater]:
    """For the proxy, then for each judge. Raises as `Rater`."""
    most = prepared.config.max_length
    judges = [Rater(source.name, load_tokenizer(source), most) for source in prepared.judges]
    return [Rater(prepared.config.model, prepared.tokenizer, most), *judges]


def ratings(prepared: Prepared, proxy: Proxy, progress: Progress) -> list[float]:
    """The score of each row [n], NaN where a model's rating is not finite. Judges are loaded one after the other."""
    scores, parameters, shortened = list[npt.NDArray[np.float64]](), list[int](), set[int]()
    for number, rater in enumerate(raters(prepared)):
        rated = proxy if number == 0 else _judge(prepared, number - 1, progress)
        found, cut = _ratings_by(rater, rated, prepared, progress)
        scores.append(found)
        parameters.append(rated.model.num_parameters())
        shortened |= cut
        del rated  # before the next one is loaded
    if shortened:
        progress.note(f"rows whose rating texts were cut to {prepared.config.max_length} tokens: {len(shortened):,}")
    return cast("list[float]", model_level(np.stack(scores), parameters).tolist())


def _judge(prepared: Prepared, number: int, progress: Progress) -> Proxy:
    config, source = prepared.config, prepared.judges[number]
    progress.note(f"loading {source.name}")
    model = load_model(source, config.dtype, prepared.device)
    return with_batch_tokens(Proxy(model, {}), config, prepared.pool.examples, None)


def _ratings_by(
    rater: Rater, rated: Proxy, prepared: Prepared, progress: Progress
) -> tuple[npt.NDArray[np.float64], set[int]]:
    """Scores [n] by one model, and the rows whose text is shortened."""
    examples, constants = prepared.pool.examples, SelectIt.model_validate(prepared.config.constants)
    found, shortened = np.empty((len(examples), constants.K)), set[int]()
    for place, prompt in enumerate(PROMPTS[: constants.K]):
        texts = rater.texts(prompt, examples)
        shortened |= {row for row, text in enumerate(texts) if text.shortened}
        by = f" by {rater.name}" if prepared.judges else ""
        progress.begin(f"ratings {place + 1}/{constants.K}{by}", len(texts), sum(len(t.input_ids) for t in texts))
        for batch in rated.batches([len(text.input_ids) for text in texts]):
            members = [texts[row] for row in batch]
            with explain_out_of_memory(LESS_AT_ONCE, "rating rows"):
                shares = score_probabilities(rated.model, members, rater.scores)
            found[batch, place] = token_level(shares.numpy())
            progress.advance(len(batch), sum(len(text.input_ids) for text in members))
    return sentence_level(found, constants.a), shortened


def score_probabilities(model: "PreTrainedModel", rows: Sequence[TokenRow], scores: Sequence[int]) -> Tensor:
    """P' [b, 5] float64 on the CPU, of the tokens `scores` after each of `rows`; NaN where a logit is not finite."""
    input_ids = collate(rows, model.device).input_ids
    places = torch.arange(len(rows), device=model.device)
    ends = torch.tensor([len(row.input_ids) - 1 for row in rows], device=model.device)

    def final(hidden: Tensor) -> Tensor:
        return hidden[places, ends].unsqueeze(0)

    with torch.inference_mode(), output_layer_given(model, input_ids.shape, final), sdpa_kernel(ATTENTION):
        logits: Tensor = model(input_ids=input_ids, use_cache=False).logits.squeeze(0)
    found = logits[:, list(scores)].cpu().double()
    return torch.where(found.isfinite().all(dim=1, keepdim=True), found.softmax(dim=1), torch.nan)


def _text(prompt: str, instruction: str, response: str) -> tuple[str, list[int]]:
    """A rating text, and at which character the instruction starts and ends, and the response."""
    parts = [f"{prompt}\nInstruction: ", instruction, "\nResponse: ", response, QUESTION]
    borders = np.cumsum([len(part) for part in parts[:-1]])
    return "".join(parts), borders.tolist()


def _said(message: Message) -> str:
    calls = [json.dumps(message["tool_calls"], ensure_ascii=False)] if "tool_calls" in message else []
    return "\n".join([message.get("content") or "", *calls]).strip()
