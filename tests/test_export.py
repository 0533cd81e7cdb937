"""An exported policy is the policy of the run: in another process, from another folder, without isoalign and its store."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from isoalign.cli.commands import invoke
from isoalign.core.batches import Rollouts
from isoalign.core.records import Card, Estimate, Flag
from isoalign.core.store import Store
from isoalign.data import hub
from isoalign.evaluation import card as cards
from isoalign.models import loading
from isoalign.models.language import LanguageModel
from isoalign.runs.overrides import task_named
from isoalign.stages.sft import with_adapter
from workbench import COMMAND, Terminal

END, PAD, TURN = 0, 1, 320  # of the tiny tokenizer, with a token that closes turns; ids 321 to 329 are no tokens
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% if m['role'] == 'assistant' %}<|turn|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
PROMPTS = [[0, 35, 80, 260], [0, 71, 300]]
ANSWERS = [[40, 90, 210, 7], [33, 299, 128, 50]]

# What a user has: transformers, PEFT and a folder. Prints log-probabilities of answers, and what is sampled.
ELSEWHERE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

rows, folders = json.loads(sys.argv[1]), sys.argv[2:]

def logp(model):
    found = []
    for prompt, answer in rows:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0].float()
        logits[:, model.generation_config.suppress_tokens] = -torch.inf
        chosen = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
        found.append(chosen.sum().item())
    return found

for folder in folders:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    told = {"auto": logp(model)}
    told["pipeline"] = logp(pipeline("text-generation", model=folder).model)
    if folder.endswith("adapter"):
        told["peft"] = logp(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder + "/base"), folder))
    torch.manual_seed(0)
    prompts = torch.tensor([rows[0][0]] * 64)
    told["sampled"] = model.generate(prompts, attention_mask=torch.ones_like(prompts))[:, prompts.shape[1] :].tolist()
    chat = tokenizer.chat_template and [{"role": "user", "content": "hi"}]
    told["chat"] = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) if chat else None
    text = pipeline("text-generation", model=folder)("you are", return_tensors=True)[0]["generated_token_ids"]
    told["of the pipeline"] = len(text) - len(tokenizer("you are").input_ids)
    print(json.dumps(told))
"""


def elsewhere(rows: list[Any], folders: list[Path], home: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """What another process finds in exported folders, with no hub and nothing of isoalign."""
    env = environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ELSEWHERE, json.dumps(rows), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, env=env)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@dataclass
class Place:
    """A store with a base, and policies that moved away from it: all weights of one, an adapter of the other."""

    home: Path
    store: Store
    parents: dict[str, dict[str, str]]
    model: Path
    expected: dict[str, Any]

    def card(self, kind: str, eos: str = "masked", **changes: Any) -> Path:
        settings = [f"task.model.name={self.model}", f"task.model.eos={eos}", "task.model.new_tokens=6"]
        config = {"algorithm": {"beta": 0.1}, "task": asdict(task_named("nano", settings))}
        method = "sft" if kind in ("plain", "base") else "dpo"
        card = Card(
            key=f"{kind}{eos}0123456789", task="nano", algorithm=method, config=config, seed=3,
            budget={"flops": 2e12, "steps": 9.0}, spent={"flops": 1e12}, parents=self.parents[kind], versions={},
            metrics={"kl": Estimate(1.25, 1.0, 1.5, 16), "toxicity_mean": Estimate(0.125, 0.1, 0.15, 16)},
            command="isoalign run algorithm=dpo seed=3", flags=[Flag("warning", "it is tiny")],
            notes={"prompts": 16, "split": "test", "draws": 2, "tuning": "by hand"},
            training={} if kind in ("plain", "base") else {"steps": 9},
        )  # fmt: skip
        return cards.write_card(cards.sealed(replace(card, **changes)), self.home / "cards")

    def export(self, card: Path, folder: Path, *flags: str) -> int:
        return invoke(["export", str(card), str(folder), "--store", str(self.store.root), *flags])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    home = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(home / "model")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(330, mean_resizing=False)
    model.save_pretrained(home / "model")
    store, expected = Store(home / "store"), {}
    recipe = {"model": {"weights": hub.model_identity(str(home / "model"))}}

    def moved(of: Any) -> Any:
        with torch.no_grad():
            for weight in (each for each in of.parameters() if each.requires_grad):
                weight.add_(0.1 * torch.randn_like(weight))
        return of

    def keep(stage: str, key: str, name: str, kept: Any) -> None:
        store.get(stage, key * 16, recipe, lambda work: kept.save_pretrained(work / name if name else work))

    keep("sft", "a", "", moved(model))
    expected["base"] = loading.load_model(str(home / "model"), store.path("sft", "a" * 16))[0]
    expected["weights"] = moved(model)
    keep("train", "b", "policy", expected["weights"])
    base, _ = loading.load_model(str(home / "model"), store.path("sft", "a" * 16))
    adapted = moved(with_adapter(base, 4))
    keep("train", "c", "policy", adapted)
    expected["adapter"] = expected["merged"] = adapted.merge_and_unload()
    store.get("sft", "e" * 16, recipe, lambda work: None)  # of a task without SFT
    expected["plain"] = loading.load_model(str(home / "model"))[0]
    parents = {"plain": {"sft": "e" * 16}, "base": {"sft": "a" * 16}, "weights": {"sft": "a" * 16, "train": "b" * 16}}
    parents["adapter"] = {"sft": "a" * 16, "train": "c" * 16}
    return Place(home, store, parents, home / "model", expected)


@pytest.mark.slow
def test_transformers_and_peft_load_the_policy_elsewhere_and_never_sample_what_is_banned(
    place: Place, tmp_path: Path, environment: dict[str, str]
) -> None:
    kinds = {"plain": [], "base": [], "weights": [], "adapter": [], "merged": ["--merge"]}
    for kind, flags in kinds.items():
        card = place.card("adapter" if kind == "merged" else kind)
        assert place.export(card, tmp_path / "here" / kind, *flags) == 0
    assert place.export(place.card("weights", "open"), tmp_path / "here" / "open") == 0
    (tmp_path / "here").rename(tmp_path / "there")
    hidden = place.store.root.rename(place.home / "hidden")
    rows = list(zip(PROMPTS, ANSWERS, strict=True))
    try:
        told = elsewhere(rows, [tmp_path / "there" / kind for kind in (*kinds, "open")], tmp_path, environment)
    finally:
        hidden.rename(place.store.root)

    found = dict(zip((*kinds, "open"), told, strict=True))
    tokenizer = loading.load_tokenizer(str(place.model))
    tokens = torch.tensor([[PAD] * (4 - len(p)) + p + a for p, a in rows])
    batch = Rollouts(tokens, tokens != PAD, 4)
    for kind, each in found.items():
        model = LanguageModel(place.expected["weights" if kind == "open" else kind], tokenizer, ends=kind == "open")
        with torch.no_grad():
            ours = model(batch).logp.sum(1).tolist()
        for way in ("auto", "pipeline", *(["peft"] if kind == "adapter" else [])):
            assert each[way] == pytest.approx(ours, abs=1e-4), (kind, way)
        assert each["chat"] == "user: hiassistant: "
        assert not set(model.banned.tolist()) & {token for row in each["sampled"] for token in row if token != PAD}
    assert abs(found["base"]["auto"][0] - found["weights"]["auto"][0]) > 0.1
    assert abs(found["base"]["auto"][0] - found["adapter"]["auto"][0]) > 0.1

    fixed = found["weights"]
    assert {len(row) for row in fixed["sampled"]} == {6} == {fixed["of the pipeline"]}
    assert not {END, PAD, TURN, *range(321, 330)} & {token for row in fixed["sampled"] for token in row}
    ended = [row for row in found["open"]["sampled"] if {END, TURN} & set(row)]
    assert ended  # after its end an answer is padding
    for row in ended:
        first = next(i for i, token in enumerate(row) if token in (END, TURN))
        assert set(row[first + 1 :]) <= {PAD}


def test_the_control_a_model_without_the_bans_samples_them(place: Place) -> None:
    torch.manual_seed(0)
    prompts = torch.tensor([PROMPTS[0]] * 64)
    made = place.expected["weights"].generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0, max_new_tokens=6
    )
    assert {PAD, TURN, *range(321, 330)} & set(made[:, prompts.shape[1] :].flatten().tolist())


def test_the_adapter_s_folder_holds_each_weight_once_and_names_no_place_of_the_run(place: Place, tmp_path: Path) -> None:
    assert place.export(place.card("adapter"), tmp_path / "out") == 0
    sizes = {
        str(file.relative_to(tmp_path / "out")): file.stat().st_size for file in (tmp_path / "out").rglob("*.safetensors")
    }
    assert set(sizes) == {"adapter_model.safetensors", "base/model.safetensors"}
    settings = peft.PeftConfig.from_pretrained(str(tmp_path / "out"))
    assert (settings.base_model_name_or_path, settings.revision) == ("base", None)
    for file in (tmp_path / "out").rglob("*.json"):
        assert file.name == "card.json" or str(place.home) not in file.read_text(), file


def test_the_model_card_tells_the_result_its_conditions_and_the_command(place: Place, tmp_path: Path) -> None:
    path = place.card("weights", command="isoalign run algorithm=dpo task.key=hf_abcdefghijklmnopqrst")
    assert place.export(path, tmp_path / "out") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    for told in (
        "# nano: dpo, seed 3", "beta=0.1", "2.00e12 FLOP, 9 steps", "1.25 [1.00, 1.50]", "0.125 [0.100, 0.150]",
        "16 test prompts, 2 samples each", "- it is tiny", "stays under its licence", "isoalign run algorithm=dpo", "by hand",
        "all tokens but 12 that isoalign bans", "chat template",
    ):  # fmt: skip
        assert told in text, told
    assert "hf_abcdef" not in text
    assert cards.read_card(tmp_path / "out" / "card.json") == cards.read_card(path)
    metadata = text.split("---")[1]
    assert "pipeline_tag: text-generation" in metadata
    assert "base_model" not in metadata  # a folder is none on the hub


def test_the_model_card_and_the_tokenizer_have_the_template_as_the_run_used_it(place: Place, tmp_path: Path) -> None:
    tokenizers = {}
    for template, told in (
        ("always", "wrote every prompt as a user's turn"),
        ("auto", "plain prompts without it"),
        ("off", ""),
    ):
        task = asdict(task_named("nano", [f"task.model.name={place.model}", f"task.model.template={template}"]))
        card = place.card("weights", config={"algorithm": {}, "task": task}, seed=6)
        assert place.export(card, tmp_path / template) == 0
        assert told in (tmp_path / template / "README.md").read_text()
        tokenizers[template] = transformers.AutoTokenizer.from_pretrained(tmp_path / template)
    assert tokenizers["always"].chat_template == tokenizers["auto"].chat_template == TEMPLATE
    assert tokenizers["off"].chat_template is None


def test_a_merged_adapter_is_merged_in_fp32(place: Place, tmp_path: Path) -> None:
    """A base in bf16 would round most of a small update away."""
    task = asdict(task_named("nano", [f"task.model.name={place.model}", "task.model.dtype=bfloat16", "task.model.lora=4"]))
    card = place.card("adapter", config={"algorithm": {}, "task": task}, seed=7)
    assert place.export(card, tmp_path / "merged", "--merge") == 0
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for name, weight in merged.state_dict().items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, place.expected["merged"].state_dict()[name], atol=1e-5, rtol=1e-5)


def test_what_can_t_be_exported_is_one_line_and_nothing_is_written(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, adapter = place.card("weights"), place.card("adapter")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "link").touch()
    gone = place.card("weights", parents={"sft": "a" * 16, "train": "d" * 16}, seed=4)
    other = place.card("weights", config={"algorithm": {}, "task": asdict(task_named("nano"))}, seed=5)
    lost = asdict(task_named("nano", [f"task.model.name={tmp_path / 'lost'}"]))
    cases = [
        (good, "full", [], "exists already; name a folder that is new or empty"),
        (good, "link", [], "exists already; name a folder that is new or empty"),
        (good, "link/under", [], "cannot write to"),
        (gone, "out", [], f"the store {place.store.root} does not hold its train ({'d' * 16}); name the store of the run with "
                          "--store, or run it again by the card's command"),
        (other, "out", [], "the model 'nano', whose tokenizer the policy needs, is not the one that it began from"),
        (place.card("weights", config={"task": lost}, seed=6), "out", [], "cannot load the model"),
        (place.card("weights", algorithm="best_of_n", training={"steps": 0}), "out", [], "it trains nothing and chooses"),
        (place.card("base", algorithm="theirs", budget={"flops": None}, spent={}), "out", [], "were made outside isoalign"),
        (tmp_path / "none.json", "out", [], "cannot read the card"),
        (adapter, "out", ["--push", "me/it"], "load from a folder, not from one repository; add --merge"),
        (good, "out", ["--push", "me/it"], "the hub, which is off limits; set HF_HUB_OFFLINE=0"),
    ]  # fmt: skip
    capsys.readouterr()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for card, folder, flags, line in cases:
        assert place.export(card, tmp_path / folder, *flags) == 2, line
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("isoalign: ")
        assert line in said.err, said.err
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert place.export(good, tmp_path / "out", "--push", "me/it") == 2
    assert "set HF_TOKEN, or log in by: hf auth login" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "link"]


def test_a_failure_on_the_way_leaves_no_folder_and_an_empty_one_is_taken(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("isoalign.tools.export.model_card", fail)
        assert place.export(place.card("weights"), tmp_path / "out") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert not list((tmp_path / "out").iterdir())
    assert place.export(place.card("weights"), tmp_path / "out") == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_run_s_own_policy_is_exported_and_gives_its_samples_the_same_probability(furnished: Terminal) -> None:
    dpo = ["algorithm=dpo", "algorithm.lr=0.003", "algorithm.batch_size=8"]
    ppo = ["algorithm=ppo_lora", "algorithm.rollouts=8", "algorithm.minibatch=4"]
    for words in (dpo, ppo, ["algorithm=best_of_n"]):
        done = furnished(furnished.run(*words, "budget.steps=2", "task.training.snapshots=[]"))
        assert done.returncode == 0, done.stderr
        card = furnished.home / done.stdout.splitlines()[-1]
        told = json.loads(card.read_text())
        name = told["algorithm"]
        export = [COMMAND, "export", str(card), f"out/{name}", "--store", str(furnished.store)]
        exported = furnished(export)
        assert furnished([COMMAND, "verify", str(card), "--store", str(furnished.store)]).returncode == 0
        if name == "best_of_n":
            assert "policy" not in told["training"]
            assert (exported.returncode, "has no policy to export" in exported.stderr) == (2, True)
            continue
        assert exported.returncode == 0, exported.stderr
        assert exported.stdout == f"out/{name}\n"
        assert told["training"]["policy"] == f"train-{told['parents']['train']}/policy"
        assert (furnished.store / told["training"]["policy"]).is_dir()
        lines = (furnished.store / f"samples-{told['parents']['samples']}" / "samples.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines][:8]
        tokenizer = transformers.AutoTokenizer.from_pretrained(furnished.home / "out" / name)
        prompts = [tokenizer(sample["prompt"]).input_ids for sample in samples]
        rows = [(ids[:1] + ids[1:][-15:], sample["token_ids"]) for ids, sample in zip(prompts, samples, strict=True)]
        away = furnished.home / ("adapter" if name == "ppo_lora" else "weights")
        (furnished.home / "out" / name).rename(away)
        (found,) = elsewhere(rows, [away], furnished.home, furnished.env)
        for way in ("auto", "pipeline", *(["peft"] if name == "ppo_lora" else [])):
            assert found[way] == pytest.approx([sample["logp"] for sample in samples], abs=1e-4)
