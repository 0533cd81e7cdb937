"""Exporting the policy of a card: a folder that transformers and PEFT load anywhere, and its model card.

The folder needs neither isoalign nor its store. Its generation configuration samples as isoalign does: at T = 1 from all
tokens but the banned ones, up to the task's length.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoalign.config.fill import build_config
from isoalign.config.task import TaskConfig
from isoalign.core.errors import UserError, unforeseen
from isoalign.core.files import new_folder, save
from isoalign.core.lazy import huggingface_hub, peft, safetensors, transformers
from isoalign.core.manifests import RECIPE
from isoalign.core.records import Card
from isoalign.core.store import Store
from isoalign.data import hub
from isoalign.evaluation import card as cards
from isoalign.evaluation.kept import stage_of
from isoalign.models import loading, tokens
from isoalign.tools.model_card import Contents, model_card

BASE = "base"  # subfolder of the model under an adapter
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Policy:
    """The policy behind a card. ``base``: folder of the SFT base; ``trained``: of the weights or adapter that were trained
    from it, None for the base itself; ``began``: digest or commit of the weights from which SFT began."""

    task: TaskConfig
    base: Path
    trained: Path | None
    began: str

    @classmethod
    def of(cls, card: Card, store: Store) -> Policy:
        """Raises UserError where a card has no policy, where the store does not hold it, or where its model was changed."""
        who = f"{card.algorithm} seed {card.seed}"
        if not card.metered:
            raise UserError(f"{who} has no policy to export: its completions were made outside isoalign")
        if card.training.get("steps") == 0:
            raise UserError(
                f"{who} has no policy to export: it trains nothing and chooses among answers of the SFT base; the card of "
                "algorithm=sft exports that"
            )
        trained = stage_of(card, store, "train") / "policy" if "train" in card.parents else None
        base = stage_of(card, store, "sft")
        task: TaskConfig = build_config(TaskConfig, card.config.get("task"), f"{who}: config.task")
        loading.load_config(task.model.name)  # one that is gone is told as such
        known = json.loads((base / RECIPE).read_text(encoding="utf-8"))["model"]["weights"]
        if (found := loading.weights_identity(task.model.name)) != known:
            raise UserError(
                f"{who}: the model {task.model.name!r}, whose tokenizer the policy needs, is not the one that it began from "
                f"({known[:16]}, now {found[:16]}); put that one back"
            )
        return cls(task, base, trained, known)

    @property
    def adapter(self) -> bool:
        """Whether an adapter was trained."""
        return self.trained is not None and (self.trained / ADAPTER).exists()

    def load(self, weights: Path, dtype: str = "") -> Any:
        """The model in a folder of the store, in the dtype in which a run evaluates it, or in another one."""
        config, whole = self.task.model, weights == self.trained
        made = weights if (weights / "config.json").exists() else None  # a base without SFT is the model itself
        model, _ = loading.load_model(config.name, made, dtype or (config.dtype if whole else config.frozen))
        return model

    def tokenizer(self) -> Any:
        """The tokenizer with the chat template that the run used, and its date; none where it used none."""
        tokenizer = copy.deepcopy(loading.task_tokenizer(self.task.model))
        template = tokenizer.chat_template if self.task.model.template != "off" else None
        dated = isinstance(template, str) and "strftime_now" in template
        tokenizer.chat_template = f"{tokens.TODAY}{template}" if dated else template
        return tokenizer


def export(card: Card, store: Store, folder: Path, merge: bool = False) -> Path:
    """Write the policy of a card into a new folder, whole or not at all; returns the folder.

    An adapter stays one, with the model under it in a subfolder, unless ``merge``. Raises UserError where that can't be done.
    """
    policy = Policy.of(card, store)
    with new_folder(folder) as work:
        tokenizer = policy.tokenizer()
        adapter = policy.adapter and not merge
        dtype = "float32" if policy.adapter and merge else ""  # bf16 would round most of an adapter's update away
        model = policy.load(policy.base if policy.adapter or policy.trained is None else policy.trained, dtype)
        if policy.adapter and merge:
            model = peft.PeftModel.from_pretrained(model, str(policy.trained)).merge_and_unload()
        model.generation_config = generation = generation_config(loading.task_tokenizer(policy.task.model), model, policy.task)
        model.save_pretrained(work / BASE if adapter else work)
        if adapter:
            assert policy.trained is not None
            _add_adapter(work, policy.trained)
            generation.save_pretrained(work)
        tokenizer.save_pretrained(work)
        kind = "adapter" if adapter else "base" if policy.trained is None else "merged" if policy.adapter else "weights"
        contents = Contents(
            kind, policy.task, policy.began, bool(tokenizer.chat_template), len(generation.suppress_tokens or [])
        )
        (work / "README.md").write_text(model_card(card, contents), encoding="utf-8")
        save(work / "card.json", cards.to_json(card))
    return folder


def generation_config(tokenizer: Any, model: Any, task: TaskConfig) -> Any:
    """The generation configuration with which transformers samples as isoalign does: the same tokens are banned, and the same
    end an answer."""
    ends = tokens.end_ids(tokenizer, model.generation_config)
    logits = int(model.get_output_embeddings().weight.shape[0])
    banned = tokens.banned_ids(tokenizer, logits, ends, task.model.eos == "open")
    return transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=task.model.new_tokens, use_cache=True,
        eos_token_id=ends or None, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=banned or None,
    )  # fmt: skip


def _add_adapter(folder: Path, adapter: Path) -> None:
    """Put an adapter beside the model in ``BASE``.

    transformers adds an adapter to the model of the same folder, whose weights are here by an index the subfolder's, so that
    they are there once; PEFT takes the model of the subfolder.
    """
    for file in adapter.glob("adapter_model*"):
        shutil.copy(file, folder / file.name)
    settings = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": BASE, "revision": None}  # it names the store of the run
    (folder / ADAPTER).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    shutil.copy(folder / BASE / "config.json", folder)
    if (folder / BASE / INDEX).exists():
        index = json.loads((folder / BASE / INDEX).read_text(encoding="utf-8"))
    else:
        from_file = folder / BASE / WEIGHTS
        with safetensors.safe_open(str(from_file), "pt") as weights:
            index = {
                "metadata": {"total_size": from_file.stat().st_size},
                "weight_map": dict.fromkeys(weights.keys(), WEIGHTS),
            }
    index["weight_map"] = {name: f"{BASE}/{file}" for name, file in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


# -- the hub ---------------------------------------------------------------------------------------------------------------


def check_push(card: Card, store: Store, merge: bool) -> None:
    """Refuse before any work what can't be pushed. Raises UserError."""
    if Policy.of(card, store).adapter and not merge:
        raise UserError("--push: an adapter and the model under it load from a folder, not from one repository; add --merge")
    if hub.offline():
        raise UserError("--push needs the hub, which is off limits; set HF_HUB_OFFLINE=0")
    if not huggingface_hub.get_token():
        raise UserError("--push needs a token of the hub; set HF_TOKEN, or log in by: hf auth login")


def push(folder: Path, name: str) -> str:
    """Upload a folder to the hub, into a repository that is private if it is new; its address. Raises UserError."""
    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # of a network, of the hub, of a name
        raise UserError(f"cannot push to {name!r}: {unforeseen(error)}; {folder} is whole") from error
    return str(address)
