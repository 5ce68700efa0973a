"""Likely wrong answers: rows whose prompt does not make the answer more likely to the model.

The model reads each row twice, the answer after its prompt and the answer alone. Its own prompt makes an answer
easier to predict; that of another answer does not. They are stored in `checkpoint/answers.json`, format version 1:
`losses`, by id, mean NLL of the answer [after its prompt, alone], in nats per token. A loss is null where it is not
finite, and for an answer of one token alone; such a row is never listed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from spice_select.errors import ConfigError, OutputError
from spice_select.files.atomic import write_text
from spice_select.files.directory import CHAT_TEMPLATE, CHECKPOINT, refuse_links
from spice_select.files.records import damage_reported
from spice_select.pool.examples import PoolOptions, read_pool
from spice_select.pool.fields import TEMPLATE_OPTIONS
from spice_select.prepared import Prepared
from spice_select.progress import Progress
from spice_select.proxy.loading import load_tokenizer, model_source, pick_device, resolved_dtype
from spice_select.report.content import Finding
from spice_select.report.finished_run import FinishedRun
from spice_select.row_tables import StoredChat
from spice_select.schedule.batching import with_batch_tokens
from spice_select.schedule.ranking import bad_losses, response_and_prompt_losses

FILE = "answers.json"
FORMAT_VERSION = 1
SUSPICIOUS = 0.95  # least ratio of the two losses at which a row is listed


def measure_answers(run: FinishedRun, progress: Progress, *, trust_remote_code: bool = False) -> None:
    """Evaluate both losses of every row with the run's model, before any training of it, and keep them in the run.

    The model's own Python code runs with `trust_remote_code` only, whatever the run's manifest says. Raises
    `ConfigError` if the run kept no texts or the model cannot be loaded, `OutputError` if its checkpoint is a link.
    """
    refuse_links(run.directory, CHECKPOINT)
    chats = run.texts(range(len(run.lines)))
    if chats is None:
        raise ConfigError(f"{run.directory}: kept no texts, so its answers cannot be read again.")
    template = run.directory / CHAT_TEMPLATE  # the run's own copy
    own = {"chat_template": str(template) if template.is_file() else None, "trust_remote_code": trust_remote_code}
    options = run.config.model_copy(update=own)
    source, device = model_source(options), pick_device(options.device)
    tokenizer = load_tokenizer(source)
    rows = [_as_row(chat) for chat in chats]
    pool = read_pool([rows], tokenizer, PoolOptions(format="messages", max_length=options.max_length))
    config = options.model_copy(update={"dtype": resolved_dtype(options.dtype, device)})
    proxy = Prepared(config, pool, tokenizer, {}, source, device).proxy(progress)
    losses = response_and_prompt_losses(pool.examples, with_batch_tokens(proxy, config, pool.examples, None), progress)
    pairs = zip(pool.examples, losses.conditioned, losses.direct, strict=True)
    found = {example.id: [loss if math.isfinite(loss) else None for loss in both] for example, *both in pairs}
    bad = bad_losses(pool.examples, losses.bad())
    if bad:
        progress.note(f"{len(bad):,} answers cannot be judged because their loss is not finite, e.g. {bad[0].location}")
    content = {"format_version": FORMAT_VERSION, "losses": found}
    write_text(run.directory / CHECKPOINT / FILE, json.dumps(content, allow_nan=False) + "\n")


def suspects_of(run: FinishedRun) -> list[Finding] | None:
    """Rows whose answers look wrong, by the losses that `measure_answers` stored; None where it has not run.

    A row is listed where loss after the prompt / loss alone >= `SUSPICIOUS`. Rows are in the order of
    (ratio - 1) * sqrt(trained tokens), highest first: of two equal ratios that of the longer answer is more certain.
    Raises `OutputError` if the file is damaged.
    """
    losses = _read_losses(run.directory / CHECKPOINT / FILE)
    if losses is None:
        return None
    found: list[tuple[float, Finding]] = []
    for line in run.lines:
        after, alone = losses.get(line.id, (0.0, 0.0))
        if alone > 0 and after / alone >= SUSPICIOUS:
            ratio = after / alone
            reason = f"its prompt hardly helps: loss {after:.2f} after the prompt, {alone:.2f} without it"
            found.append(((1.0 - ratio) * math.sqrt(line.trained_tokens), Finding(line, ratio, reason, [])))
    found.sort(key=lambda item: (item[0], item[1].line.index))
    return [finding for _, finding in found]


def _as_row(chat: StoredChat) -> dict[str, Any]:
    """A row of the format `messages`, in which turns that are context have the weight 0."""
    messages = [
        {**message, "weight": 0} if turn in chat.conversation.untrained else dict(message)
        for turn, message in enumerate(chat.conversation.messages)
    ]
    extras = {"tools": chat.conversation.tools, TEMPLATE_OPTIONS: dict(chat.conversation.template_options)}
    return {"id": chat.id, "messages": messages, **{name: value for name, value in extras.items() if value}}


def _read_losses(path: Path) -> Mapping[str, tuple[float, float]] | None:
    """Both losses by id, where both are known; None without a file."""
    if not path.exists():
        return None
    remedy = "Delete it and audit again."
    with damage_reported(path, remedy, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise OutputError(f"{path}: has format version {content['format_version']}.\n{remedy}")
        pairs = cast("dict[str, tuple[Any, Any]]", content["losses"])  # None: not finite
        return {name: (float(one), float(two)) for name, (one, two) in pairs.items() if None not in (one, two)}
