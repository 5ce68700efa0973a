"""Laws of selection while training: plain training on the same batches, the definition's choices, whatever interrupts."""

import pytest
import torch
from torch.utils.data import DataLoader

from oracles.selecting import CHOICE, lora_model, plain_trainer, same_weights, trl_trainer, weights_of
from spice_select.trainers import SelectingSampler

KINDS = {"transformers": plain_trainer, "trl": trl_trainer}


def batches_of(sampler):
    """All batches of a training that has ended, epoch by epoch: what was chosen is handed out again."""
    found = []
    for epoch in range(sampler.epoch + 1):
        sampler.epoch = epoch
        found.append(list(sampler))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_plain_training_on_the_same_batches(kind, tiny_model, tmp_path):
    """To the bit, with dropout: no hook, no gradient, no random number of the choices is left behind."""
    make, options = KINDS[kind], {"gradient_checkpointing": kind == "trl"}
    model = lora_model(tiny_model, lora_dropout=0.2)
    trainer = make(model, tmp_path / "t", num_train_epochs=2, **options)
    sampler = SelectingSampler(trainer, output=tmp_path / "chosen", **CHOICE)
    trainer.train()
    batches = batches_of(sampler)
    assert [len(rows) for rows in batches] == [5, 5] and batches[0] != batches[1]

    other = make(lora_model(tiny_model, lora_dropout=0.2), tmp_path / "u", num_train_epochs=2, **options)
    plain, epochs = other.get_train_dataloader(), iter(batches)

    class InOrder:
        def __len__(self):
            return len(batches[0])

        def __iter__(self):
            yield from next(epochs)

    loader = DataLoader(plain.dataset, batch_sampler=InOrder(), collate_fn=plain.collate_fn)
    other.get_train_dataloader = lambda: loader
    other.train()
    assert same_weights(weights_of(trainer.model), weights_of(other.model))
    assert not same_weights(weights_of(trainer.model), weights_of(lora_model(tiny_model)))
