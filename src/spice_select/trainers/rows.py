"""The rows of a trainer's dataset, as its collator gives them to the model: tokens, and which of them are trained."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from spice_select.errors import PoolError
from spice_select.output.trainers import IGNORED
from spice_select.pool.encoding import Encoded
from spice_select.pool.examples import segments
from spice_select.pool.lazy_rows import Rows
from spice_select.pool.messages import Conversation
from spice_select.pool.types import Line, Listing, Rejection, Row, SourceFile

INPUTS = {"input_ids", "attention_mask", "labels"}
"""What a collator may give to the model."""
UNTRAINED = "none of its tokens is trained"

T = TypeVar("T")
Collator = Callable[[list[Any]], Mapping[str, Any]]


class Dataset(Protocol):
    """A dataset with a place for each row, such as `datasets.Dataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class TrainerRow:
    """A row as a candidate: `index` counts candidates, `place` is its place in the dataset."""

    index: int
    place: int
    line: Line
    input_ids: NDArray[np.int32]  # [tokens]
    trained: NDArray[np.bool_]  # [tokens]
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def row(self) -> Row:
        """Where it comes from; the dataset holds its content."""
        return Row(self.line.source, self.line.location, self.place + 1, {"place": self.place})

    @property
    def conversation(self) -> Conversation:
        """Its text: trained tokens are the assistant's turns, all others the user's; empty without a tokenizer."""
        parts = [] if self.tokenizer is None else segments(Encoded(self.input_ids, self.trained), self.tokenizer)
        return Conversation([{"role": "assistant" if is_said else "user", "content": text} for text, is_said in parts])


class TrainerRows:
    """The usable rows of a dataset; one that is a candidate in a further lap over them has a further index.

    Attributes:
        dataset, collate: those of the loader.
        places: [n] places of the usable rows in the dataset.
        sha256: digest of all tokens and labels.
        rejected: the rows of which no token is trained.

    """

    def __init__(self, loader: DataLoader[Any], name: str, sources: Sequence[str] | None, tokenizer: object) -> None:
        """Read every row of a trainer's loader once; `name` is what messages call its dataset.

        `sources` name the data set of each row, in place of `name`.

        Raises `PoolError` if no row can be trained on, or batches hold more than tokens, attention mask and labels.
        """
        dataset, collate = cast(Dataset, loader.dataset), cast(Collator, loader.collate_fn)
        self.dataset, self.collate, self._name, self._sources = dataset, collate, name, sources
        self._tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        if len(dataset):
            self._check_batch(collate([dataset[0], dataset[len(dataset) - 1]]))
        digest, lengths = hashlib.sha256(), np.zeros((len(dataset), 2), np.int32)
        for place in range(len(dataset)):
            ids, trained = self._tokens(place)
            digest.update(np.where(trained, ~ids, ids).tobytes() + b"|")
            lengths[place] = len(ids), trained.sum()
        self.sha256 = digest.hexdigest()
        self.places = lengths[:, 1].nonzero()[0]
        self._tokens_of, self._trained_of = lengths[self.places].T.copy()
        untrained = (lengths[:, 1] == 0).nonzero()[0].tolist()
        self.rejected = [Rejection(*self._origin(place), place + 1, UNTRAINED, {}) for place in untrained]
        if not len(self.places):
            raise PoolError(
                f"{name}: no row has a trained token.\nCheck its labels, and that max_length is not too low."
            )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> TrainerRow:
        place = int(self.places[index % len(self)])
        return TrainerRow(index, place, self.line(index), *self._tokens(place), self._tokenizer)

    def equal_to(self, target: "TrainerRows") -> dict[int, str]:
        """Indices of the rows that have the tokens of a row of `target`, and its id."""
        known = {row.input_ids.tobytes(): row.line.id for row in (target[index] for index in range(len(target)))}
        like = np.isin(self._tokens_of, target._tokens_of).nonzero()[0].tolist()  # of a length that one has
        names = {index: known.get(self[index].input_ids.tobytes()) for index in like}
        return {index: name for index, name in names.items() if name is not None}

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self._tokens_of.max())

    def listing(self, laps: int) -> Listing:
        """All candidates of so many laps, without their texts."""
        file = SourceFile(self._name, "", "rows of a trainer", len(self.dataset), self.sha256)
        return Listing(self._of_laps(laps, self.line), self.rejected, [file], 0)

    def with_texts(self, laps: int) -> Rows[TrainerRow]:
        """All candidates of so many laps, each read when it is asked for."""
        return self._of_laps(laps, self.__getitem__)

    def _of_laps(self, laps: int, make: Callable[[int], T]) -> Rows[T]:
        def items(start: int, stop: int) -> list[T]:
            return [make(index) for index in range(start, stop)]

        return Rows(np.tile(self._tokens_of, laps), np.tile(self._trained_of, laps), items)

    def line(self, index: int) -> Line:
        """A row without its text; its id names the lap, too."""
        lap, row = divmod(index, len(self))
        place = int(self.places[row])
        (source, location), name = self._origin(place), f"{self._name}[{place}]" + (f", lap {lap + 1}" if lap else "")
        return Line(index, name, source, location, int(self._tokens_of[row]), int(self._trained_of[row]))

    def _origin(self, place: int) -> tuple[str, str]:
        """Source and location of the row at `place`."""
        return self._name if self._sources is None else str(self._sources[place]), f"{self._name}[{place}]"

    def _tokens(self, place: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Tokens and which are trained, [tokens] each, of the row at `place` without padding."""
        batch = self.collate([self.dataset[place]])
        ids, labels = (cast(Tensor, batch[key])[0].numpy() for key in ("input_ids", "labels"))
        kept = (
            cast(Tensor, batch["attention_mask"])[0].numpy() != 0
            if "attention_mask" in batch
            else np.ones(len(ids), np.bool_)
        )
        trained = labels[kept] != IGNORED
        trained[:1] = False  # nothing predicts the first token
        return ids[kept].astype(np.int32), trained

    def _check_batch(self, batch: Mapping[str, Any]) -> None:
        others, missing = sorted(batch.keys() - INPUTS), sorted({"input_ids", "labels"} - batch.keys())
        what = f"hold {', '.join(others)}" if others else f"lack {', '.join(missing)}" if missing else ""
        if what or len(batch["input_ids"]) != 2:
            raise PoolError(
                f"{self._name}: collated batches {what or 'join rows'}; a row is measured by input_ids and labels.\n"
                "Train without packing and padding_free, and with a collator that makes labels."
            )
