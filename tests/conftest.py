"""Shared fixtures: everything runs offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest
from hypothesis import settings

from oracles.runs import chat_rows, save_tiny_model, write_jsonl

settings.register_profile("without timing", deadline=None)
settings.load_profile("without timing")

DEPENDENCY = {
    "test_checkpoint", "test_config", "test_converted", "test_datasets", "test_finetune", "test_gradient_store",
    "test_gram", "test_heldout", "test_layers", "test_pool_masks", "test_pool_readers", "test_pool_smollm2",
    "test_pool_table", "test_projection", "test_report_page", "test_row_tables", "test_selecting_sampler",
    "test_tasks_run", "test_trainers", "test_update",
}  # fmt: skip
"""Modules marked `dependency`: those that call an interface of another package which its versions may change."""


def pytest_collection_modifyitems(items):
    absent = DEPENDENCY - {path.stem for path in Path(__file__).parent.rglob("test_*.py")}
    if absent:
        raise pytest.UsageError(f"DEPENDENCY in {__file__} names test modules that do not exist: {sorted(absent)}")
    for item in items:
        if item.path.stem in DEPENDENCY:
            item.add_marker(pytest.mark.dependency)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny-model")))


@pytest.fixture(scope="session")
def chat_pool(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pool") / "chats.jsonl", chat_rows(57))
