"""Shared fixtures: everything runs offline."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from oracles.runs import chat_rows, save_tiny_model, write_jsonl


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny-model")))


@pytest.fixture(scope="session")
def chat_pool(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("pool") / "chats.jsonl", chat_rows(57))
