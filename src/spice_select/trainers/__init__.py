"""Selection while training: `SelectingSampler` chooses the batches of a Trainer by its own model's gradients."""

from spice_select.trainers.sampler import SelectingSampler

__all__ = ["SelectingSampler"]
