"""Instruction rows to tokenised examples with exact response masks: what every later stage reads.

    pool = read_pool(["gsm8k.jsonl.gz", "my/dataset"], tokenizer, PoolOptions(max_length=1024))

Rows keep the order of the inputs and of their files. A row that cannot be trained on stops the run with the
first five such rows, or, with `skip_invalid`, is listed in `Pool.rejected`; a chat template that fails every
row is an error of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from spice_select.errors import PoolError, TemplateError
from spice_select.pool.encoding import Encoded, Encoder
from spice_select.pool.encoding import segments as _segments
from spice_select.pool.problems import RenderProblem, one_line
from spice_select.pool.reading import ChatRow, read_chats
from spice_select.pool.rendering import Renderer, Rendering
from spice_select.pool.sources import PoolInput, resolve_sources
from spice_select.pool.table import Example, Keeper, Pool
from spice_select.pool.types import PoolOptions, Rejection, Row, SourceFile

__all__ = [
    "Example",
    "Pool",
    "PoolInput",
    "PoolOptions",
    "Rejection",
    "Row",
    "SourceFile",
    "read_pool",
    "segments",
]

_BATCH, _CHARACTERS = 1024, 1 << 24  # most rows rendered and tokenised together, and characters that end a batch
_SHOWN = 5  # invalid rows that an error names


def read_pool(
    inputs: Sequence[PoolInput], tokenizer: PreTrainedTokenizerBase, options: PoolOptions | None = None
) -> Pool:
    """Read, check, render and tokenise every row of every input.

    Args:
        inputs: files (.jsonl, .json, .csv, each also .gz, .parquet), folders of `datasets.save_to_disk`, hub
            datasets (`owner/name` or `owner/name:split`), `datasets.Dataset`s, lists of dicts.
        tokenizer: the proxy model's, with its chat template if it has one.
        options: None for the defaults.

    Raises:
        PoolError: an input cannot be read, rows are invalid (without `skip_invalid`), or none is valid.
        TemplateError: the chat template is broken, refuses every row, or hides which tokens are the
            assistant's.
        ModelError: the tokenizer cannot be used.

    """
    options = options or PoolOptions()
    renderer, encoder = Renderer(tokenizer), Encoder(tokenizer)
    files: list[SourceFile] = []
    rejected: list[Rejection] = []
    with Keeper() as keeper:
        chats = read_chats(resolve_sources(inputs), options, files)
        for item in _encode(chats, renderer, encoder, options):
            if isinstance(item, Rejection):
                # Without skip_invalid the run stops, and of the rows only the first are told of.
                whole = options.skip_invalid or len(rejected) < _SHOWN
                rejected.append(item if whole else replace(item, raw=""))
            else:
                keeper.add(*item, options.max_length)
        _stop_on_problems(rejected, len(keeper), options.skip_invalid)
        kept = keeper.kept()
    return Pool(kept.examples(), rejected, files, int(kept.truncated.sum()))


def segments(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    """An example's text in alternating runs, each with whether it is trained; for people to look at."""
    return _segments(example.input_ids, example.trained, tokenizer)


def _batch(chats: Iterator[ChatRow | Rejection]) -> list[ChatRow | Rejection]:
    """The next rows, so many as are rendered and tokenised together; none at the end."""
    batch: list[ChatRow | Rejection] = []
    characters = 0
    for chat in chats:
        batch.append(chat)
        if isinstance(chat, ChatRow):
            characters += sum(len(message.get("content") or "") for message in chat.conversation.messages)
        if len(batch) == _BATCH or characters > _CHARACTERS:
            break
    return batch


def _encode(
    chats: Iterable[ChatRow | Rejection], renderer: Renderer, encoder: Encoder, options: PoolOptions
) -> Iterator[tuple[ChatRow, Encoded] | Rejection]:
    """Every row as tokens, or as a rejection, in order; a batch of rows is in memory at a time.

    Raises:
        TemplateError: the template fails one row and `skip_invalid` is off, or refuses every row. It is told when all
            is read, as what is wrong with an input comes first.

    """
    rendered_any, refusal, failure = False, None, None
    chats = iter(chats)
    while batch := _batch(chats):
        if failure is not None:
            continue
        try:
            items = [chat if isinstance(chat, Rejection) else _render(chat, renderer, options) for chat in batch]
        except TemplateError as error:
            failure = error
            continue
        rendered_any |= any(not isinstance(item, Rejection) for item in items)
        refusal = refusal or _first_refusal(batch, items)
        yield from _tokenise(items, encoder, options.max_length)
    if failure is not None:
        raise failure
    if refusal is not None and not rendered_any:
        raise TemplateError(
            f"Every row fails with this chat template; the first, {refusal.location}: {refusal.reason}.\n"
            "Use the tokenizer of another model, or bring the rows to what the template allows."
        )


_Rendered = tuple[ChatRow, Rendering] | Rejection


def _render(chat: ChatRow, renderer: Renderer, options: PoolOptions) -> _Rendered:
    try:
        rendering = renderer.render(chat.conversation)
        rendering.text.encode()
    except UnicodeEncodeError:
        return _refused(chat, "a text holds half of a surrogate pair (broken Unicode)")
    except RenderProblem as problem:
        return _refused(chat, problem.reason)
    except TemplateError as error:
        if not options.skip_invalid:
            raise TemplateError(f"{chat.location}: {error}") from error
        return _refused(chat, str(error))
    return chat, rendering


def _first_refusal(chats: Sequence[ChatRow | Rejection], items: Sequence[_Rendered]) -> Rejection | None:
    """The first row that the template refused."""
    pairs = zip(chats, items, strict=True)
    return next((item for chat, item in pairs if isinstance(item, Rejection) and item is not chat), None)


def _refused(chat: ChatRow, reason: str) -> Rejection:
    return chat.rejected(one_line(reason, 300))


def _tokenise(
    items: Sequence[_Rendered], encoder: Encoder, max_length: int
) -> Iterator[tuple[ChatRow, Encoded] | Rejection]:
    encoded = iter(encoder.encode([item[1] for item in items if not isinstance(item, Rejection)]))
    for item in items:
        if isinstance(item, Rejection):
            yield item
            continue
        chat, tokens = item[0], next(encoded)
        if not tokens.trained.any():
            yield _refused(chat, "the response gives no token to learn")
        elif not tokens.trained[:max_length].any():
            first = int(tokens.trained.argmax())
            yield _refused(
                chat, f"max_length {max_length} cuts off the whole response (it starts at token {first + 1})"
            )
        else:
            yield chat, tokens


def _stop_on_problems(rejected: list[Rejection], valid: int, skip_invalid: bool) -> None:
    if not rejected or (skip_invalid and valid):
        return
    total = len(rejected) + valid
    more = f"; the first {_SHOWN}" if len(rejected) > _SHOWN else ""
    listed = "; ".join(f"{r.location}: {r.reason}" for r in rejected[:_SHOWN])
    if valid:
        head = f"{len(rejected):,} of {total:,} rows cannot be trained on{more}:"
        remedy = "Mend them, or leave them out with --skip-invalid (skip_invalid: true)."
    else:
        head = f"No valid row is left: all {total:,} cannot be trained on{more}:"
        remedy = "Mend them, or say what the columns mean with --format and --column."
    raise PoolError(f"{head}\n{listed}.\n{remedy}")
