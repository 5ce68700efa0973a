"""Models whose rows depend on padding are refused when they are loaded; causal ones of every kind are not."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from oracles.gradient_oracle import FAMILIES, tiny_model
from spice_select.errors import ModelError
from spice_select.proxy.loading import ModelSource, load_model
from spice_select.proxy.padding import refuse_padding_dependent

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 300,
    "max_position_embeddings": 64,
}  # fmt: skip


def model_of(kind, **options):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **options)).eval()


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "roformer", "rembert", "megatron-bert", "xlm-roberta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bidirectional_models_are_refused_and_their_causal_forms_are_not(kind, dtype):
    with pytest.raises(ModelError, match=r"(?s)not causal.*choose a causal"):
        refuse_padding_dependent(model_of(kind).to(dtype), "proxy")
    refuse_padding_dependent(model_of(kind, is_decoder=True).to(dtype), "proxy")


def test_a_model_that_expects_padding_on_the_left_is_refused():
    sizes = {"vocab_size": 300, "hidden_size": 32, "num_attention_heads": 4, "dim_head": 8, "dim_ff": 64}
    config = AutoConfig.for_model("cpmant", num_hidden_layers=2, prompt_length=4, **sizes)
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="what follows"):
        refuse_padding_dependent(AutoModelForCausalLM.from_config(config).eval(), "proxy")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_pass_in_either_type(family, dtype):
    refuse_padding_dependent(tiny_model(family).to(dtype), "proxy")


def test_a_model_of_few_positions_is_causal_too():
    refuse_padding_dependent(AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_positions=6, n_layer=2,
                             n_embd=32, n_head=4, vocab_size=99)).eval(), "proxy")  # fmt: skip


def test_entries_of_the_vocabulary_that_are_masked_hide_nothing():
    model = model_of("bert")
    model.get_output_embeddings().register_forward_hook(
        lambda _, __, out: out.index_fill(2, torch.tensor([7]), -torch.inf)
    )
    with pytest.raises(ModelError, match="not causal"):
        refuse_padding_dependent(model, "proxy")


def test_loading_is_where_it_happens(tmp_path):
    model_of("bert").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not causal"):
        load_model(ModelSource("mine", str(tmp_path), {}), "float32", torch.device("cpu"))
