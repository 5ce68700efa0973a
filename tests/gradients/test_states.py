"""States are those of a plain forward pass, weighted by their places, whatever else is in a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.gradient_oracle import TokenExample, random_examples, tiny_model
from spice_select.gradients.states import pooled_states, state_width
from spice_select.pool.batches import batches_within
from spice_select.proxy.lora import attach_lora


def oracle_states(model, examples: list[TokenExample]) -> torch.Tensor:
    """[n, d] float64: each row alone, all hidden states kept, the sum written out from its definition."""
    rows = []
    for example in examples:
        ids = torch.tensor(example.input_ids.astype("int64"))[None]
        with torch.no_grad():
            last = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
        total = sum(range(1, len(last) + 1))
        rows.append(sum((i / total) * last[i - 1] for i in range(1, len(last) + 1)))
    return torch.stack(rows)


MODELS = {family: tiny_model(family) for family in ("llama", "qwen2", "mistral", "gemma2", "gpt2")}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.integers(1, 12), st.integers(0, 999), st.integers(1, 200))
def test_states_are_those_of_a_plain_pass_for_any_batches(family, count, seed, budget):
    model, examples = MODELS[family], random_examples(count, seed)
    expected = oracle_states(model, examples)
    found = pooled_states(model, examples, batches_within([len(e.input_ids) for e in examples], budget))
    scale = float(expected.abs().max())
    assert found.features.dtype == torch.float32 and found.features.shape == (count, state_width(model))
    assert float((found.features - expected).abs().max()) <= 1e-5 * scale
    torch.testing.assert_close(found.squared_norms.double(), expected.square().sum(dim=1), rtol=1e-4, atol=0)
    assert bool(found.losses.isnan().all())


def test_a_model_with_adapters_whose_b_is_zero_has_the_same_states():
    """LoRA's B is zero before any training: states need no adapters."""
    examples = random_examples(6, seed=2)
    plain = pooled_states(MODELS["llama"], examples, [range(6)]).features
    adapted = pooled_states(attach_lora(tiny_model("llama"), 2, 4.0, 0).model, examples, [range(6)]).features
    torch.testing.assert_close(adapted, plain)


def test_a_row_that_is_not_finite_is_marked_and_spoils_no_other():
    model, examples = tiny_model("llama"), random_examples(8, seed=4)
    poisoned = int(examples[3].input_ids[0])
    model.get_input_embeddings().weight[poisoned] = torch.inf
    bad = torch.tensor([poisoned in example.input_ids for example in examples])
    found = pooled_states(model, examples, [range(8)])
    assert bool(bad[3]) and not bool(bad.all())
    assert torch.equal(found.squared_norms.isposinf(), bad) and not bool(found.features[bad].any())
    good = [example for example, spoilt in zip(examples, bad.tolist(), strict=True) if not spoilt]
    torch.testing.assert_close(found.features[~bad].double(), oracle_states(model, good), rtol=1e-4, atol=1e-6)


def test_a_batch_beyond_the_memory_is_cut_into_halves(monkeypatch):
    model, examples = MODELS["llama"], random_examples(8, seed=7)
    expected, forward = pooled_states(model, examples, [range(8)]), type(model).forward

    def small(self, input_ids, **options):
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError
        return forward(self, input_ids, **options)

    monkeypatch.setattr(type(model), "forward", small)
    found = pooled_states(model, examples, [range(8)])
    torch.testing.assert_close(found.features, expected.features)


@pytest.mark.parametrize("family", sorted(MODELS))
def test_the_output_layer_computes_one_position(family):
    """Logits are of no use, so a pass over many tokens asks for those of one alone."""
    model, seen = MODELS[family], []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:2]))
    pooled_states(model, random_examples(5, seed=1), [range(5)])
    hook.remove()
    assert seen == [(1, 1)]
