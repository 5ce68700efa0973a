"""Instruction rows to tokenised examples with exact response masks: what every later stage reads.

    pool = read_pool(["gsm8k.jsonl.gz", "my/dataset"], tokenizer, PoolOptions(max_length=1024))

Rows keep the order of the inputs and of their files. Rows that cannot be trained on stop the run with an error that
names the first five; with `skip_invalid` they are listed in `Pool.rejected`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from spice_select.errors import PoolError, TemplateError
from spice_select.pool.encoding import Encoded, Encoder
from spice_select.pool.omissions import answer_characters, missing_characters
from spice_select.pool.problems import RenderProblem
from spice_select.pool.reading import ChatRow, read_chats
from spice_select.pool.rendering import Renderer, Rendering
from spice_select.pool.sources import PoolInput, resolve_sources
from spice_select.pool.table import Example, Pool, TableWriter, make_pool
from spice_select.pool.types import PoolOptions, Rejection, SourceFile

_BATCH, _CHARACTERS = 1024, 1 << 24  # most rows rendered and tokenised together, and characters that end a batch
_SHOWN = 5  # invalid rows that an error names


def read_pool(
    inputs: Sequence[PoolInput],
    tokenizer: PreTrainedTokenizerBase,
    options: PoolOptions | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Pool:
    """Read, check, render and tokenise every row of every input.

    Args:
        inputs: files, patterns of shards, folders, hub datasets, addresses (docs/formats.md), `datasets.Dataset`s,
            lists of dicts.
        tokenizer: the proxy model's, with its chat template if it has one.
        options: None for the defaults.
        note: receives what the user should know of rows that can be used, a sentence each.

    Raises:
        PoolError: an input cannot be read, rows are invalid (without `skip_invalid`), or none is valid.
        TemplateError: the chat template is broken, refuses every row, or hides which tokens are the assistant's.
        ModelError: the tokenizer cannot be used.

    """
    options = options or PoolOptions()
    tokeniser = _Tokeniser(tokenizer, options)
    files: list[SourceFile] = []
    rejected: list[Rejection] = []
    valid = 0
    with TableWriter(options.max_length) as writer:
        chats = read_chats(resolve_sources(inputs), options, files)
        while batch := _next_batch(chats):
            try:
                items = tokeniser.encode(batch)
            except TemplateError:
                for _ in chats:  # what is wrong with an input comes first, and raises here
                    pass
                raise
            usable = [item for item in items if not isinstance(item, Rejection)]
            writer.write(usable)
            valid += len(usable)
            for item in items:
                if isinstance(item, Rejection):
                    # Without skip_invalid the run stops, and its error shows only the first rows.
                    whole = options.skip_invalid or len(rejected) < _SHOWN
                    rejected.append(item if whole else replace(item, raw=""))
        tokeniser.check_refusals()
        for sentence in tokeniser.remarks():
            note(sentence)
        _stop_on_problems(rejected, valid, options.skip_invalid)
        return make_pool(writer.table(), np.arange(valid), rejected, files)


def segments(example: Example | Encoded, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """The text of each run of trained or untrained tokens of an example, in order, and whether it is trained.

    Each piece is what its tokens add to the decoding of all before it, as decoders may drop a leading space.
    """
    ids, trained = example.input_ids, example.trained
    borders = [0, *(np.flatnonzero(trained[1:] != trained[:-1]) + 1).tolist(), len(ids)]
    pieces: list[tuple[str, bool]] = []
    before = ""
    for start, end in pairwise(borders):
        text = cast(str, tokenizer.decode(ids[:end].tolist(), clean_up_tokenization_spaces=False))
        pieces.append((text[len(before) :], bool(trained[start])))
        before = text
    return pieces


class _Tokeniser:
    """Renders and tokenises batches of rows with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: PoolOptions) -> None:
        self._renderer, self._encoder = Renderer(tokenizer), Encoder(tokenizer)
        self._options = options
        self._rendered_any = False
        self._refusal: Rejection | None = None  # of the first row that the template refused
        self._shortened = 0  # rows of whose answers the template leaves something out
        self._without_tools = 0  # rows whose tools the template leaves out
        self._missing, self._of = 0, 0  # characters that it leaves out, and those of these rows' answers

    def encode(self, batch: Sequence[ChatRow | Rejection]) -> list[tuple[ChatRow, Encoded] | Rejection]:
        """Every row as tokens, or as a rejection, in order.

        Raises `TemplateError` if the template fails on a row and `skip_invalid` is off.
        """
        items = [self._render(chat) for chat in batch]
        encoded = iter(self._encoder.encode([item[1] for item in items if not isinstance(item, Rejection)]))
        return [item if isinstance(item, Rejection) else self._checked(item[0], next(encoded)) for item in items]

    def check_refusals(self) -> None:
        """Raise `TemplateError` if the template refused every row."""
        if self._refusal is not None and not self._rendered_any:
            raise TemplateError(
                f"Every row fails with this chat template; the first, {self._refusal.location}: "
                f"{self._refusal.reason}.\n"
                "Name another model or template (--model, --chat-template), or bring the rows to what this one allows."
            )

    def remarks(self) -> list[str]:
        """Sentences on what the template leaves out of answers."""
        found: list[str] = []
        if self._without_tools:
            found.append(
                f"rows whose tools the chat template leaves out, so that the model does not see them: "
                f"{self._without_tools:,}; another template may write them (--chat-template)"
            )
        if self._shortened:
            share = f"{self._missing / self._of:.1%}"
            found.append(
                f"rows of whose answers the chat template leaves text out, such as thinking parts: {self._shortened:,} "
                f"({share} of their characters, which are not trained); another template may keep it (--chat-template)"
            )
        return found

    def _render(self, chat: ChatRow | Rejection) -> tuple[ChatRow, Rendering] | Rejection:
        if isinstance(chat, Rejection):
            return chat
        try:
            rendering = self._renderer.render(chat.conversation)
            rendering.text.encode()
        except UnicodeEncodeError:
            refusal = chat.rejected("a text holds half of a surrogate pair (broken Unicode)")
        except RenderProblem as problem:
            refusal = chat.rejected(problem.reason)
        except TemplateError as error:
            if not self._options.skip_invalid:
                raise TemplateError(f"{chat.location}: {error}") from error
            refusal = chat.rejected(str(error))
        else:
            self._rendered_any = True
            self._count(chat, rendering)
            return chat, rendering
        self._refusal = self._refusal or refusal
        return refusal

    def _count(self, chat: ChatRow, rendering: Rendering) -> None:
        self._without_tools += self._renderer.leaves_out_tools(chat.conversation)
        missing = missing_characters(chat.conversation, rendering.text, rendering.spans)
        if missing:
            answers = (chat.conversation.messages[turn] for turn in chat.conversation.trained_turns())
            self._shortened += 1
            self._missing += missing
            self._of += sum(map(answer_characters, answers))

    def _checked(self, chat: ChatRow, encoded: Encoded) -> tuple[ChatRow, Encoded] | Rejection:
        """The row if a token of its response remains."""
        if not encoded.trained.any():
            return chat.rejected("the response gives no token to learn")
        max_length = self._options.max_length
        first = int(encoded.trained.argmax())
        if first >= max_length:
            return chat.rejected(
                f"max_length {max_length} cuts off the whole response (it starts at token {first + 1})"
            )
        return chat, encoded


def _next_batch(chats: Iterator[ChatRow | Rejection]) -> list[ChatRow | Rejection]:
    batch: list[ChatRow | Rejection] = []
    characters = 0
    for chat in chats:
        batch.append(chat)
        if isinstance(chat, ChatRow):
            characters += sum(len(message.get("content") or "") for message in chat.conversation.messages)
        if len(batch) == _BATCH or characters > _CHARACTERS:
            break
    return batch


def _stop_on_problems(rejected: list[Rejection], valid: int, skip_invalid: bool) -> None:
    marked = sum(row.marked for row in rejected)
    if not valid and marked == len(rejected) > 0:
        raise PoolError(
            f"All {marked:,} rows are marked as not to be learnt; the first, {rejected[0].location}: "
            f"{rejected[0].reason}.\nNothing is left to choose from."
        )
    total = len(rejected) + valid
    rejected = [row for row in rejected if not row.marked]
    if not rejected or (skip_invalid and valid):
        return
    more = f"; the first {_SHOWN}" if len(rejected) > _SHOWN else ""
    listed = "; ".join(f"{r.location}: {r.reason}" for r in rejected[:_SHOWN])
    if valid:
        head = f"{len(rejected):,} of {total:,} rows cannot be trained on{more}:"
        remedy = "Correct them, or leave them out with --skip-invalid (skip_invalid: true)."
    else:
        head = f"No valid row is left: all {total:,} cannot be trained on{more}:"
        remedy = "Correct them, or say what the columns mean with --format and --column."
    raise PoolError(f"{head}\n{listed}.\n{remedy}")
