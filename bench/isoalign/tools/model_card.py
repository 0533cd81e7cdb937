"""The model card (README.md) of an exported policy: what was run, what came out, how to load it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isoalign.config.task import TaskConfig
from isoalign.core.display import escape, grid, plain, scientific
from isoalign.core.lazy import huggingface_hub
from isoalign.core.objective import objective_of
from isoalign.core.records import Card
from isoalign.report.board.cells import cell
from isoalign.report.board.columns import leading, metric
from isoalign.report.pages.page import commands_block
from isoalign.tools.exports.hub import eval_results

FURTHER = ("kl_per_token", "implicit_accuracy", "distinct_2")  # shown after the leading metrics of a board
EMBEDDED = {
    "nano": "isoalign's nano model, which was trained from scratch on comments that people labelled: the model Apache-2.0; of "
    "the data the labels CC0, the text of Wikipedia talk pages CC BY-SA 3.0, the tweets MIT. It writes insults.",
    "smollm2": "SmolLM2-135M-Instruct of Hugging Face, Apache-2.0, quantised to Q4_1.",
}
"""Where embedded bases come from, and their licences."""
KINDS = {
    "base": "the SFT base, which every method of the task starts from",
    "weights": "all weights, in the dtype in which they were trained",
    "merged": "all weights in fp32, with the adapter that was trained merged into the SFT base",
    "adapter": "a LoRA adapter, and in the folder base the SFT base under it",
}


@dataclass(frozen=True)
class Contents:
    """What an export holds. ``kind``: one of ``KINDS``; ``began``: digest or commit of the base model; ``chat``: whether it
    has a chat template; ``banned``: number of tokens that are never sampled."""

    kind: str
    task: TaskConfig
    began: str
    chat: bool
    banned: int


def model_card(card: Card, contents: Contents) -> str:
    """The model card as Markdown with its metadata for the hub."""
    parts = [
        f"---\n{_metadata(card, contents)}\n---",
        f"# {escape(card.task)}: {escape(card.algorithm)}, seed {card.seed}",
        "A policy of a run of isoalign, a benchmark of alignment methods under one budget of compute. It is for research: it "
        "may write offensive text.",
        grid(["", "what"], [[name, escape(text)] for name, text in _facts(card, contents)], left=(0, 1)),
        "## Result",
        _result(card),
        "## How to load it",
        _loading(contents),
        "## Licence",
        escape(_licence(contents.task.model.name)),
        "## How it was made",
        commands_block([card]),
        f"`card.json` is the whole record of the run (key `{card.key}`).",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(card: Card, contents: Contents) -> str:
    name = contents.task.model.name
    on_hub = name not in EMBEDDED and not Path(name).exists()
    data = huggingface_hub.ModelCardData(
        base_model=name.partition("@")[0] if on_hub else None,
        library_name="peft" if contents.kind == "adapter" else "transformers", pipeline_tag="text-generation",
        tags=["isoalign", card.task, card.algorithm], model_name=f"{card.task} {card.algorithm} seed {card.seed}",
        eval_results=eval_results(card) or None,
    )  # fmt: skip
    return str(data.to_yaml())


def _facts(card: Card, contents: Contents) -> list[tuple[str, str]]:
    limits = [f"{plain(limit)} {name}" for name, limit in card.budget.items() if name != "flops" and limit is not None]
    budget = ", ".join([f"{scientific(card.budget['flops'])} FLOP", *limits])
    trained = contents.kind != "base"
    facts = [
        ("task", card.task),
        ("base model", f"{contents.task.model.name} (weights {contents.began[:16]})"),
        ("method", card.algorithm),
        ("seed", str(card.seed)),
    ]
    settings = ", ".join(f"{name}={plain(value)}" for name, value in card.config.get("algorithm", {}).items())
    facts += [("settings", settings)] if settings else []
    facts += [("how they were chosen", str(card.notes["tuning"]))] if card.notes.get("tuning") else []
    facts += [("budget", budget), ("spent", f"{scientific(card.spent.get('flops'))} FLOP")] if trained else []
    return [*facts, ("weights", KINDS[contents.kind])]


def _result(card: Card) -> str:
    objective = objective_of(card)
    shown = [metric(name, objective) for name in (*leading(objective), *FURTHER) if name in card.metrics]
    rows = [[escape(one.heading), cell(card.metrics[one.name], one.digits)] for one in shown]
    said = [f"- {escape(str(flag))}" for flag in card.flags]
    notes = card.notes
    where = f"{notes.get('prompts')} {notes.get('split')} prompts, {notes.get('draws')} samples each"
    rest = "Values with their 95% intervals over prompts, not over training seeds; KL is the exact KL from the SFT base."
    parts = [grid(["metric", "value [95% interval]"], rows), escape(f"{where}. {rest}")]
    return "\n\n".join([*parts, *(["What to know before believing it:\n\n" + "\n".join(said)] if said else [])])


def _loading(contents: Contents) -> str:
    model, adapter = contents.task.model, contents.kind == "adapter"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline",
        "",
        'folder = "."  # where this folder lies',
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        'write = pipeline("text-generation", model=model, tokenizer=tokenizer)',
    ]
    if adapter:
        lines += [
            "",
            "from peft import PeftModel  # with PEFT: the model under the adapter, then the adapter",
            "",
            'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder + "/base"), folder)',
        ]
    ends = "an answer ends at an end token or there" if model.eos == "open" else "answers have just this length"
    text = (
        "The generation configuration samples as the run was evaluated: at temperature 1 from all tokens but "
        f"{contents.banned:,} that isoalign bans (`suppress_tokens`), up to {model.new_tokens} new tokens; {ends}. "
        "Log-probabilities are those of the run where these tokens have probability 0. The run read the last "
        f"{model.prompt_tokens} tokens of a prompt, with the tokenizer's start tokens and no end token."
    )
    text += f" {_template(contents)}" if contents.chat else ""
    return "\n".join(["```python", *lines, "```", "", text])


def _template(contents: Contents) -> str:
    """How the run wrote prompts, where the exported tokenizer has a chat template."""
    model = contents.task.model
    call = "`tokenizer.apply_chat_template(turns, add_generation_prompt=True)`"
    if model.template == "always" or model.template_file:
        return f"It wrote every prompt as a user's turn in the tokenizer's chat template, {call}: its figures are of that."
    return f"It wrote conversations in the tokenizer's chat template, {call}, and plain prompts without it."


def _licence(name: str) -> str:
    base = EMBEDDED.get(
        name, f"{name}. This export is a derivative of it and stays under its licence: read that model's page."
    )
    return f"The base is {base}"
