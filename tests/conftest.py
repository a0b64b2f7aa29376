"""What every test has: an offline, single-threaded environment, the installed plugins, and a CPU budget a file."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1")

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["cpu_budget"]
pytest.register_assert_rewrite("named.harness")

ROOT = Path(__file__).resolve().parents[1]
#: configs of models that cost next to nothing
TINY_BERT = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
TINY_GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 40,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What takes seconds to import is imported before any file's time is taken."""
    if "torch" in sys.modules and session.items and not session.config.option.collectonly:
        import accelerate.data_loader
        import datasets
        import torch
        import transformers.trainer

        torch.set_num_threads(1)
        datasets.disable_progress_bars()
        assert transformers.trainer and accelerate.data_loader
        gc.collect()
        gc.freeze()  # accelerate collects garbage after each training: what was imported need not be looked through


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """What a file leaves behind (registered modules, caches) is put out of the collector's sight as well: accelerate
    collects after each training, and would look through everything that earlier files made."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def weight_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the packages of weights that the shipped recipes name, each with a small model."""
    from stand_in_weights import make_packages
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("packages")
    make_packages(ROOT.glob("recipes/**/*.yaml"), folder, BertModel(BertConfig(**TINY_BERT)))
    return folder


@pytest.fixture
def recipe_weights(weight_packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shipped recipes find the packages of weights that they name, installed or not."""
    monkeypatch.syspath_prepend(str(weight_packages))


@pytest.fixture(scope="session")
def plugins():
    """Everything that is installed."""
    from topwork import load_plugins

    return load_plugins()


@pytest.fixture(scope="session")
def engine():
    """Everything that is installed, and the tasks and stages of `engine_plugin.py`."""
    import engine_plugin

    from topwork import load_plugins

    return load_plugins(extra=[engine_plugin])


@pytest.fixture
def tiny_bert() -> dict:
    return dict(TINY_BERT)


@pytest.fixture
def tiny_gpt2() -> dict:
    return dict(TINY_GPT2)
