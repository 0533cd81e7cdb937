"""Models that nobody shaped for isoalign: each runs to its card by the real command line, or is refused in one line before any
stage."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from architectures import build
from isoalign.config.evaluation import EvaluationConfig
from isoalign.config.feedback import JudgeConfig
from isoalign.config.task import ModelConfig, PromptsConfig, RewardConfig, SFTConfig, TaskConfig
from isoalign.config.training import TrainConfig
from isoalign.core import products
from isoalign.core.batches import Rollouts
from isoalign.core.errors import UserError
from isoalign.data.preferences import rollouts
from isoalign.evaluation import card as cards
from isoalign.models import precision, reward_classifier
from isoalign.models.loading import load_config, load_model
from isoalign.models.reward import head_rewards, load_reward_model
from isoalign.stages.preflight import check_length, make_preflight
from workbench import Terminal, complaint, finished, stages

BIG = {
    "hidden_size": 32768, "intermediate_size": 131072, "num_hidden_layers": 24, "num_attention_heads": 128,
    "num_key_value_heads": 8, "vocab_size": 320, "max_position_embeddings": 512,
}  # fmt: skip


def stranger(folder: Path, name: str, tiny_model: Path, **more: Any) -> Path:
    """A model of an architecture with the tiny model's tokenizer, whose vocabulary is padded to 328."""
    sizes = {"vocab_size": 328, "max_position_embeddings": 512, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0}
    sizes |= {"n_positions": 512} if name == "gpt2" else {}
    build(name, **{**sizes, **more}).save_pretrained(folder)
    for file in tiny_model.glob("token*"):
        shutil.copy(file, folder)
    return folder


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


RUNS = [
    ("gemma2", "ppo_critic"), ("granite", "grpo"), ("cohere", "trl_dpo"), ("qwen3_moe", "dpo"), ("lfm2", "kto"),
    ("opt:projected", "ppo"), ("mamba", "dpo"), ("gpt2", "online_dpo"), ("bloom", "rlaif"), ("gpt_oss", "rloo"),
    ("deepseek_v2", "simpo"), ("smollm3", "orpo"), ("stablelm", "best_of_n"), ("olmoe", "trl_grpo"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), RUNS)
def test_a_strange_architecture_runs_to_its_card(
    terminal: Terminal, tiny_model: Path, tmp_path: Path, name: str, method: str
) -> None:
    terminal = replace(terminal, model=stranger(tmp_path / "model", name, tiny_model))
    done = terminal(terminal.run(f"algorithm={method}", "budget.steps=2", "task.model.eos=open"))
    assert done.returncode == 0, done.stderr
    card = cards.read_card(Path(done.stdout.strip().splitlines()[-1]))
    assert card.spent["steps"] == (0 if method == "best_of_n" else 2)
    assert card.metrics["kl"].value >= 0
    preflight = json.loads((terminal.store / stages(terminal.store, "preflight")[0] / "preflight.json").read_text())
    assert abs(preflight["base"]["FLOPs"]) < 0.03
    drawn = [json.loads(line) for file in terminal.store.glob("samples-*/samples.jsonl") for line in file.open()]
    assert max(token for row in drawn for token in row["token_ids"]) < 320  # never an id beyond the tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cohere", "gpt2", "mixtral", "bloom"])
def test_a_strange_architecture_trains_an_adapter(terminal: Terminal, tiny_model: Path, tmp_path: Path, name: str) -> None:
    terminal = replace(terminal, model=stranger(tmp_path / "model", name, tiny_model))
    settings = ["task.model.lora=4", "task.model.bf16=true", "task.training.gradient_checkpointing=true"]
    done = terminal(terminal.run("algorithm=dpo", "budget.steps=2", *settings))
    assert done.returncode == 0, done.stderr


REFUSED = [
    ("recurrent_gemma", "(RecurrentGemmaForCausalLM) can't be run exactly: from its own forward"),
    ("rwkv", "(RwkvForCausalLM) can't be run: RwkvModel takes no cache"),
    ("mamba2", "no rule covers its parameter"),
    ("falcon_h1", "no rule covers its parameter"),
]  # fmt: skip


def encoder(folder: Path, name: str, tiny_model: Path, **more: Any) -> Path:
    """An encoder with the tiny model's tokenizer."""
    sizes = {
        "vocab_size": 328, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
        "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(name, **{**sizes, **more})
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    for file in tiny_model.glob("token*"):
        shutil.copy(file, folder)
    return folder


def check(model: Path, lora: int = 0, trl_loop: bool = False, **more: Any) -> None:
    """The preflight of a task on a model."""
    (work := model.parent / "preflight").mkdir()
    more = {"reward": RewardConfig(1, 1e-3), **more}
    task = TaskConfig("strange", ModelConfig(str(model), eos="open"), SFTConfig(1, 1e-3), **more)
    make_preflight(work, task, lora, trl_loop)


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_what_can_not_be_run_or_billed_is_refused(tiny_model: Path, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        check(stranger(tmp_path / "model", name, tiny_model))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "preflight").iterdir())


@pytest.mark.parametrize("name", ["mamba", "cohere"])
def test_an_adapter_that_can_not_be_is_refused(tiny_model: Path, tmp_path: Path, name: str) -> None:
    model = stranger(tmp_path / "model", name, tiny_model)
    if name == "cohere":
        check(model, lora=4)
        return
    with pytest.raises(UserError, match="can't have a LoRA adapter"):
        check(model, lora=4)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def other_tokenizer(folder: Path) -> None:
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    build("llama").save_pretrained(folder)  # of 97 tokens


def no_end(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    edit(folder / "config.json", eos_token_id=None)
    edit(folder / "generation_config.json", eos_token_id=None)


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].nothing.there }}")


def missing_weights(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=3)


def broken_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])


def not_finite(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.lm_head.weight.data[7] = float("nan")
    model.save_pretrained(folder)


def custom_code(folder: Path) -> None:
    edit(
        folder / "config.json", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, model_type="own"
    )
    (folder / "code.py").write_text("raise SystemExit('this must never run')")


def adapter_alone(folder: Path) -> None:
    adapter_beside(folder)
    for file in (folder / "config.json", *folder.glob("model*.safetensors")):
        file.unlink()


def adapter_beside(folder: Path) -> None:
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")).save_pretrained(
        folder
    )


FAULTS = [
    (lambda folder: edit(folder / "config.json", num_hidden_layers=1), "has 9 weights that its config.json has no place for"),
    (adapter_beside, "has an adapter beside its weights"),
    (adapter_alone, "is an adapter without the model under it; merge it into that"),
    (lambda folder: edit(folder / "generation_config.json", eos_token_id=[[0]]), "has the end token [0], not a number"),
    (no_tokenizer, "has no tokenizer"),
    (other_tokenizer, "embeddings for 97 tokens only"),
    (no_end, "has no end token"),
    (broken_template, "the chat template of"),
    (missing_weights, "lacks 9 of its weights"),
    (broken_weights, "cannot load the model"),
    (not_finite, "logits are not finite"),
    (
        lambda folder: edit(folder / "config.json", model_type="t5", architectures=["T5Model"]),
        "(t5) is no causal language model",
    ),
    (custom_code, "custom code"),
]


@pytest.mark.parametrize(("spoil", "reason"), FAULTS, ids=[reason for _, reason in FAULTS])
def test_a_folder_that_is_no_usable_model_is_refused(tiny_model: Path, tmp_path: Path, spoil: Any, reason: str) -> None:
    model = stranger(tmp_path / "model", "llama", tiny_model)
    spoil(model)
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        check(model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("trl_loop", [False, True])
def test_a_model_whose_configuration_asks_for_other_outputs_runs(tiny_model: Path, tmp_path: Path, trl_loop: bool) -> None:
    folder = stranger(tmp_path / "model", "llama", tiny_model)
    edit(folder / "config.json", return_dict=False, output_hidden_states=True)
    check(folder, trl_loop=trl_loop)


def test_a_model_whose_configuration_asks_for_attentions_can_be_saved(tiny_model: Path, tmp_path: Path) -> None:
    folder = stranger(tmp_path / "model", "llama", tiny_model)
    edit(folder / "config.json", output_attentions=True)
    load_model(str(folder))[0].save_pretrained(tmp_path / "saved")
    load_reward_model(str(folder), folder)[0].save_pretrained(tmp_path / "head")


def test_a_head_is_put_on_no_model_whose_configuration_leaves_weights_unread(tiny_model: Path, tmp_path: Path) -> None:
    folder = stranger(tmp_path / "model", "llama", tiny_model)
    edit(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match="has 9 weights that its config"):
        load_reward_model(str(folder), folder)
    with pytest.raises(UserError, match="lacks the weights"):
        reward_classifier.load(str(folder))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"prompts": PromptsConfig(test=100000)}, "lower task.prompts.test"),
        ({"evaluation": EvaluationConfig(scorer="hf:nowhere/scorer")}, "cannot load the scorer 'hf:nowhere/scorer'"),
        ({"judge": JudgeConfig(kind="lm", model="/nowhere/judge")}, "cannot load the model '/nowhere/judge'"),
        ({"training": TrainConfig(gradient_checkpointing=True)}, "CTRLLMHeadModel has no layers that can be checkpointed"),
    ],
)
def test_a_task_that_can_not_be_is_refused(tiny_model: Path, tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    name = "ctrl" if "training" in more else "llama"
    with pytest.raises(UserError, match=re.escape(reason)):
        check(stranger(tmp_path / "model", name, tiny_model), **more)


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
SHORT = [
    ("gpt2", {"n_positions": 43, "max_position_embeddings": 43}),
    ("llama", {"max_position_embeddings": 43, "rope_parameters": DYNAMIC}),
    ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 43}),
]


@pytest.mark.parametrize(("name", "more"), SHORT)
def test_texts_longer_than_a_model_reads_are_refused(
    tiny_model: Path, tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    model = stranger(tmp_path / "model", name, tiny_model, **more)
    with pytest.raises(UserError, match="reads at most 43 tokens, and a prompt with its answer may have 44"):
        check(model)
    check_length(str(model), load_config(str(model)), ModelConfig(str(model), new_tokens=19))


BASES = [
    ("gpt2", {"n_positions": 43, "max_position_embeddings": 43}, None, "reads at most 43 tokens"),
    ("qwen2", {"vocab_size": 300}, None, "embeddings for 300 tokens only"),
    ("llama", {}, no_end, "has no end token"),
]


@pytest.mark.parametrize(("name", "more", "spoil", "reason"), BASES, ids=[reason for *_, reason in BASES])
def test_a_base_of_the_reward_model_that_can_not_read_the_answers_is_refused(
    tiny_model: Path, tmp_path: Path, name: str, more: dict[str, Any], spoil: Any, reason: str
) -> None:
    base = stranger(tmp_path / "base", name, tiny_model, **more)
    if spoil:
        spoil(base)
    with pytest.raises(UserError, match=reason):
        check(stranger(tmp_path / "model", "llama", tiny_model), reward=RewardConfig(1, 1e-3, base=str(base)))


@pytest.mark.parametrize("name", ["fnet", "convbert"])
def test_a_base_of_the_reward_model_whose_rewards_depend_on_the_batch_is_refused(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    base = encoder(tmp_path / "base", name, tiny_model)
    model = stranger(tmp_path / "model", "llama", tiny_model)
    with pytest.raises(UserError, match=r"with a scalar head it gives three texts .* in a padded batch, and .* alone"):
        check(model, reward=RewardConfig(1, 1e-3, base=str(base)))


@pytest.mark.parametrize("positions", [49, 50])
def test_positions_that_begin_after_the_padding_token_are_no_room_for_text(
    tiny_model: Path, tmp_path: Path, positions: int
) -> None:
    base = encoder(tmp_path / "base", "roberta", tiny_model, max_position_embeddings=positions)  # two of them are lost
    model = stranger(tmp_path / "model", "llama", tiny_model)
    read = load_reward_model(str(base), base)
    short, long = ([[0] * (positions - 2 - n)] for n in (4, 3))
    assert head_rewards(read[0], rollouts(short * 2, [[5] * 4, [5] * 2], 1), 1, "float32").shape == (2,)
    with pytest.raises(UserError, match=f"reads at most {positions - 2} tokens, and a prompt .* has {positions - 1}"):
        head_rewards(read[0], rollouts(long, [[5] * 4], 1), 1, "float32")
    if positions == 50:  # a prompt of 24 tokens that is cut within a word has 28 once it is a text
        check(model, reward=RewardConfig(1, 1e-3, base=str(base)))
        return
    with pytest.raises(UserError, match="reads at most 47 tokens, and a prompt with its answer may have 48"):
        check(model, reward=RewardConfig(1, 1e-3, base=str(base)))


@pytest.mark.parametrize(
    ("name", "reason"), [("distilbert", None), ("mamba", "can't have a LoRA adapter"), ("phimoe", "cannot be counted")]
)
def test_the_adapter_of_a_reward_model_is_tried_before_a_run(
    tiny_model: Path, tmp_path: Path, name: str, reason: str | None
) -> None:
    make = encoder if name == "distilbert" else stranger
    model, base = stranger(tmp_path / "model", "llama", tiny_model), make(tmp_path / "base", name, tiny_model)
    work = tmp_path / "preflight"
    work.mkdir()
    task = TaskConfig("strange", ModelConfig(str(model), lora=4), SFTConfig(1, 1e-3), RewardConfig(1, 1e-3, base=str(base)))
    if reason is None:
        make_preflight(work, task, 0)
        return
    with pytest.raises(UserError, match=reason):
        make_preflight(work, task, 0)


def test_a_model_whose_rotary_embedding_keeps_what_a_pass_told_it_is_run(tiny_model: Path, tmp_path: Path) -> None:
    check(stranger(tmp_path / "model", "phi3", tiny_model, rope_parameters=LONGROPE, original_max_position_embeddings=64))


def test_a_model_that_no_memory_holds_is_refused_before_its_weights_are_read(tiny_model: Path, tmp_path: Path) -> None:
    model = stranger(tmp_path / "model", "llama", tiny_model)
    edit(model / "config.json", **BIG)  # 390B; the weights of the small one lie beside it
    with pytest.raises(UserError, match=r"takes \d+\.\d GiB with one row at a time, and cpu has .*task\.model\.lora=16"):
        check(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "spoil", "reason"),
    [
        ([], no_tokenizer, "has no tokenizer"),
        pytest.param([], not_finite, "logits are not finite", marks=pytest.mark.slow),
        (
            ["task.model.dtype=bfloat16"],
            None,
            "task.model.dtype=bfloat16 needs task.model.lora",
        ),
        (["task.model.dtype=float8"], None, "task.model.dtype must be float32 or bfloat16, not 'float8'"),
        (["device=cuda:7"], None, "device=cuda:7 is not there"),
        pytest.param(["task.model.lora=4"], None, "can't have a LoRA adapter", marks=pytest.mark.slow),
        pytest.param(["algorithm=ppo_lora", "algorithm.lora=4"], None, "can't have a LoRA adapter", marks=pytest.mark.slow),
        pytest.param(["task.evaluation.precision=fp16"], None, "must be one of float32, tf32", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_says_one_line_before_any_stage(
    terminal: Terminal, tiny_model: Path, tmp_path: Path, settings: list[str], spoil: Any, reason: str
) -> None:
    model = stranger(tmp_path / "model", "mamba" if "lora" in str(settings) else "llama", tiny_model)
    if spoil:
        spoil(model)
    terminal = replace(terminal, model=model)
    settings = settings if "algorithm=ppo_lora" in settings else ["algorithm=dpo", *settings]
    line = complaint(terminal(terminal.run("budget.steps=2", *settings)))
    assert reason in line
    assert "baselines" not in line
    assert not finished(terminal.store)
    assert not list((tmp_path / "results").rglob("*.jsonl"))


@pytest.mark.parametrize("able", [True, False])
def test_bf16_on_a_processor_that_has_none_is_said_to_be_slower(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], able: bool
) -> None:
    monkeypatch.setattr(products, "multiplies_bf16", lambda: able)
    model = stranger(tmp_path / "model", "rwkv", tiny_model)  # is refused right after
    with pytest.raises(UserError, match="takes no cache"):
        check(model, evaluation=EvaluationConfig(precision="bfloat16"))
    assert ("this processor has no bf16" in capsys.readouterr().err) != able


def test_precision_is_in_keys_unless_it_is_float32() -> None:
    assert precision.precision_recipe("float32") == {}
    assert precision.precision_recipe("tf32") == {"precision": "tf32"}
    assert precision.precision_recipe("bfloat16") == {"precision": "bfloat16", "autocast": precision.VERSION}


def test_rollouts_of_columns_that_are_all_padding_are_trimmed() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0]]).bool()
    trimmed = Rollouts(torch.arange(12).view(2, 6), mask, 3).trimmed()
    assert (trimmed.prompt_length, trimmed.tokens.tolist()) == (2, [[1, 2, 3, 4], [7, 8, 9, 10]])
    assert Rollouts(torch.zeros(1, 4), torch.zeros(1, 4).bool(), 2).trimmed().tokens.shape == (1, 4)


def test_a_model_that_trl_reads_otherwise_is_refused_before_any_stage(tiny_model: Path, tmp_path: Path) -> None:
    model = stranger(tmp_path / "model", "phi", tiny_model)  # its head has a bias
    check(model)
    shutil.rmtree(tmp_path / "preflight")
    with pytest.raises(UserError, match="bias"):
        check(model, trl_loop=True)
