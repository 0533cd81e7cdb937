"""SECURITY.md: its lines name tests that exist, and no loader of ours runs a model's own code."""

from __future__ import annotations

import ast
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from isoalign.core.errors import UserError
from isoalign.models import loading, reward_classifier
from isoalign.models.answer_scorers import load_answer_scorer
from workbench import write_model

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "bench" / "isoalign").rglob("*.py"))
EVIL = "from pathlib import Path\nPath({trace!r}).touch()\n"


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"`(tests/\w+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 8
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_no_code_of_a_model_is_run_and_no_pickle_is_read(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for keyword in node.keywords:
            if keyword.arg == "trust_remote_code":
                assert isinstance(keyword.value, ast.Constant), f"{file}:{node.lineno}"
                assert keyword.value.value is False, f"{file}:{node.lineno}"
        if ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), (
                f"{file}:{node.lineno}"
            )
        if name in ("load", "loads") and file.name != "world.py":  # which hears other processes of its own run
            assert ast.unparse(node.func).partition(".")[0] not in ("pickle", "joblib", "cloudpickle"), f"{file}:{node.lineno}"


@pytest.mark.parametrize("where", ["model", "tokenizer", "reward model", "scorer"])
def test_code_that_lies_with_a_model_is_not_run(where: str, tmp_path: Path) -> None:
    folder, trace = write_model(tmp_path / "model"), tmp_path / "ran"
    (folder / "evil.py").write_text(EVIL.format(trace=str(trace)))
    name = "tokenizer_config.json" if where == "tokenizer" else "config.json"
    settings = json.loads((folder / name).read_text())
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModel")
    mine = {"AutoTokenizer": ["evil.Evil", None]} if where == "tokenizer" else dict.fromkeys(classes, "evil.Evil")
    kind = {} if where == "tokenizer" else {"model_type": "evil"}
    (folder / name).write_text(json.dumps(settings | {"auto_map": mine, "tokenizer_class": "Evil"} | kind))
    with suppress(UserError):  # a tokenizer may still be read as what it is
        if where == "tokenizer":
            loading.load_tokenizer(str(folder))
        elif where == "model":
            loading.load_model(str(folder))
        elif where == "reward model":
            reward_classifier.load(str(folder))
        else:
            load_answer_scorer(f"hf:{folder}")
    assert not trace.exists()
