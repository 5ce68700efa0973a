"""How a row's features are computed, by their kind: the one place where kinds part."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor

from spice_select.config import RunConfig
from spice_select.gradients.finite import RowFeatures
from spice_select.gradients.loss import TokenRow
from spice_select.gradients.preconditioned import Preconditioner
from spice_select.gradients.projection import Projection, project_rows
from spice_select.gradients.states import pooled_states, state_width
from spice_select.proxy.lora import Proxy


class ComputeRows(Protocol):
    """Features of rows by batches, which partition the rows' places; the function receives each when it is done."""

    def __call__(
        self,
        rows: Sequence[TokenRow],
        batches: Sequence[Sequence[int]],
        on_batch: Callable[[Sequence[int]], None] = ...,
    ) -> RowFeatures:
        """Compute."""
        ...


class Kind(NamedTuple):
    """Dimensions d of the features, and what computes them."""

    dim: int
    compute: ComputeRows


def kind_of(proxy: Proxy, config: RunConfig, moments: Mapping[str, Tensor]) -> Kind:
    """The kind that `config.features` names, by `proxy` as it stands; `moments` are for preconditioned gradients."""
    if config.features == "states":
        return Kind(state_width(proxy.model), partial(pooled_states, proxy.model))
    projection = Projection(proxy.factors, config.dim, config.seed)
    gradients = partial(project_rows, proxy.model, proxy.layers, projection=projection)
    if config.features == "preconditioned":
        gradients = partial(gradients, precondition=Preconditioner(moments))
    return Kind(config.dim, gradients)
