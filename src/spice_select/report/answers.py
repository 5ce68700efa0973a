"""Likely wrong answers: rows whose prompt makes the answer no more likely to the model.

Each row is read twice, the answer after its prompt and the answer alone. A fitting prompt makes an answer easier to
predict; one that belongs to another answer does not. Losses lie in `checkpoint/answers.json`, format version 1:
`losses`, by id, mean NLL of the answer [after its prompt, alone], in nats a token; null for one token alone, and for a
loss that is not finite. Of such a row nothing is said, but that it is so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from spice_select.errors import ConfigError, OutputError
from spice_select.files.atomic import write_text
from spice_select.files.directory import CHECKPOINT, refuse_links
from spice_select.pool.examples import Pool, PoolOptions, read_pool
from spice_select.pool.messages import Conversation
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.loading import load_tokenizer, model_source, pick_device, resolved_dtype
from spice_select.report.content import Finding
from spice_select.report.evidence import Evidence
from spice_select.row_tables import StoredChat
from spice_select.schedule.batching import with_token_budget
from spice_select.schedule.ranking import bad_losses, response_and_prompt_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "answers.json"
FORMAT_VERSION = 1

SUSPICIOUS = 0.95
"""Ratio of the two losses from which on a row is listed; benchmarks/audit.py measures what that finds."""

Losses = Mapping[str, tuple[float, float]]


def measure_answers(evidence: Evidence, progress: Progress, *, trust_remote_code: bool = False) -> None:
    """Read every row twice with the run's model, before any training of it, and keep the losses beside the run.

    The model's own Python code runs with `trust_remote_code` only, whatever the run's manifest says.

    Raises:
        ConfigError: the run kept no texts.
        OutputError: the run's checkpoint is a link.
        SpiceSelectError: the model cannot be loaded, or the memory does not suffice.

    """
    refuse_links(evidence.directory, CHECKPOINT)
    rows = range(len(evidence.lines))
    chats = evidence.texts(rows)
    if chats is None:
        raise ConfigError(f"{evidence.directory}: kept no texts, so its answers cannot be read again.")
    options = evidence.config.model_copy(update={"trust_remote_code": trust_remote_code})
    source, device = model_source(options), pick_device(options.device)
    tokenizer = load_tokenizer(source)
    pool = _pool_of(chats, options.max_length, tokenizer)
    config = options.model_copy(update={"dtype": resolved_dtype(options.dtype, device)})
    proxy = Prepared(config, pool, tokenizer, {}, source, device).proxy(progress)
    losses = response_and_prompt_losses(pool.examples, with_token_budget(proxy, config, pool.examples, None), progress)
    found = {
        example.id: [one if math.isfinite(one) else None, other if math.isfinite(other) else None]
        for example, one, other in zip(pool.examples, losses.conditioned, losses.direct, strict=True)
    }
    bad = bad_losses(pool.examples, losses)
    if bad:
        progress.note(f"{len(bad):,} answers cannot be judged, their loss is not finite: as {bad[0].location}")
    content = {"format_version": FORMAT_VERSION, "losses": found}
    write_text(evidence.directory / CHECKPOINT / FILE, json.dumps(content, allow_nan=False) + "\n")


def suspects_of(evidence: Evidence) -> list[Finding]:
    """Rows whose answers look wrong, wrongest first, by what `measure_answers` kept; nothing where it was not run.

    A row is listed where loss after the prompt / loss alone >= `SUSPICIOUS`. Rows stand in the order of
    (ratio - 1) * sqrt(trained tokens): of two equal ratios that of the longer answer is the surer.

    Raises:
        OutputError: the file is damaged.

    """
    losses = _kept(evidence)
    found: list[tuple[float, Finding]] = []
    for line in evidence.lines:
        after, alone = losses.get(line.id, (math.nan, math.nan))
        ratio = after / alone if alone > 0 else math.nan
        if ratio >= SUSPICIOUS:
            reason = f"its prompt hardly helps: loss {after:.2f} after it, {alone:.2f} without"
            finding = Finding(line.index, line.id, line.source, line.location, ratio, reason, [])
            found.append(((ratio - 1.0) * math.sqrt(line.trained_tokens), finding))
    found.sort(key=lambda item: (-item[0], item[1].row))
    return [finding for _, finding in found]


def answers_known(evidence: Evidence) -> bool:
    """Whether `measure_answers` was run."""
    return (evidence.directory / CHECKPOINT / FILE).exists()


def _pool_of(chats: Sequence[StoredChat], max_length: int, tokenizer: "PreTrainedTokenizerBase") -> Pool:
    rows = [{"id": chat.id, **_as_row(chat.conversation)} for chat in chats]
    return read_pool([rows], tokenizer, PoolOptions(format="messages", max_length=max_length))


def _as_row(chat: Conversation) -> dict[str, Any]:
    """A row of the format `messages`, in which turns that are context have the weight 0."""
    messages = [
        {**message, "weight": 0} if turn in chat.untrained else dict(message)
        for turn, message in enumerate(chat.messages)
    ]
    return {"messages": messages, **({"tools": chat.tools} if chat.tools else {})}


def _kept(evidence: Evidence) -> Losses:
    path = evidence.directory / CHECKPOINT / FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise OutputError(f"{path}: is of format version {content['format_version']}; delete it and audit again.")
        pairs = cast("dict[str, tuple[float | None, float | None]]", content["losses"])
        return {name: (_number(one), _number(other)) for name, (one, other) in pairs.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(f"{path}: is damaged ({error}); delete it and audit again.") from None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
