"""The proxy of a store: warmed up once, kept with it, the same in every process and in every store that is compared.

`proxy.safetensors` holds LoRA's factors by name; for preconditioned gradients also AdamW's moments, `exp_avg.NAME` and
`exp_avg_sq.NAME`. A store of states has no proxy.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spice_select.config import RunConfig
from spice_select.errors import ConfigError, ModelError
from spice_select.files.locks import make_once
from spice_select.files.records import damage_reported
from spice_select.gradients.preconditioned import FIRST, SECOND
from spice_select.pool.examples import Pool
from spice_select.progress import Progress
from spice_select.proxy.lora import Proxy
from spice_select.proxy.update import ProxyOptimizer
from spice_select.schedule.proxy_training import warm_up
from spice_select.store.layout import AGAIN, PROXY
from spice_select.store.reading import GradientStore


def load_common_proxy(
    pool: Pool, config: RunConfig, proxy: Proxy, store: Path, progress: Progress, proxy_of: GradientStore | None
) -> dict[str, Tensor]:
    """Warm up `proxy`, once for `store`, or give it the weights that the store, or `proxy_of`, has already.

    Returns AdamW's moments by name, where the store's gradients are preconditioned, else nothing. Raises `ConfigError`
    where `proxy_of` has another proxy than the store, `ModelError` where the warm-up made no step.
    """

    def made() -> bytes:
        return save({name: tensor.contiguous() for name, tensor in _tensors(pool, config, proxy, progress, proxy_of)})

    content = make_once(store / PROXY, made, lambda holder: progress.note(f"waiting for {PROXY}, which {holder} makes"))
    tensors = _read(store / PROXY, content)
    if proxy_of is not None and not _agree(tensors, proxy_tensors(proxy_of)):
        raise ConfigError(
            f"{store}: holds gradients of another proxy than that of {proxy_of.path}; choose another --output."
        )
    with torch.no_grad():
        for name, layer in proxy.factors.items():
            layer.weight.copy_(tensors[name])
    return {name: tensor.to(proxy.device) for name, tensor in tensors.items() if _is_moment(name)}


def proxy_tensors(store: GradientStore) -> dict[str, Tensor]:
    """What a store keeps of the proxy that its gradients were computed with; nothing for states."""
    if store.features == "states":
        return {}
    return _read(store.path / PROXY, (store.path / PROXY).read_bytes())


def refuse_other_proxy(store: GradientStore, of: GradientStore, option: str) -> None:
    """Raise `ConfigError` where the gradients of two stores are not of the same proxy, and of the same moments."""
    if not _agree(proxy_tensors(store), proxy_tensors(of)):
        raise ConfigError(
            f"{option} {store.path}: its proxy was warmed up on other rows than that of {of.path}.\n"
            f"Compute it again, in another directory, with --proxy-of {of.path}."
        )


def _tensors(
    pool: Pool, config: RunConfig, proxy: Proxy, progress: Progress, proxy_of: GradientStore | None
) -> list[tuple[str, Tensor]]:
    """What is kept of the proxy: of `proxy_of`, or of `proxy` after its warm-up."""
    with_moments = config.features == "preconditioned"
    if proxy_of is not None:
        kept = proxy_tensors(proxy_of).items()
        return [(name, tensor) for name, tensor in kept if with_moments or not _is_moment(name)]
    optimizer = ProxyOptimizer(proxy, config.learning_rate, config.lr_warmup_steps)
    warm_up(optimizer, pool.examples, config, progress)
    if with_moments and not optimizer.steps:
        raise ModelError("the warm-up made no step, so there are no moments to precondition gradients by.")
    state = {name.removeprefix("weight."): tensor.cpu() for name, tensor in optimizer.state().items()}
    return [(name, state[name]) for name in state if name in proxy.factors or (with_moments and _is_moment(name))]


def _is_moment(name: str) -> bool:
    return name.startswith((f"{FIRST}.", f"{SECOND}."))


def _agree(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two proxies are equal in all that both keep; only one may keep moments."""
    return all(torch.equal(one[name], other[name]) for name in one.keys() & other.keys())


def _read(path: Path, content: bytes) -> dict[str, Tensor]:
    with damage_reported(path, AGAIN, SafetensorError):
        return load(content)
