"""The language model samples what it scores: decoding with a cache, teacher forcing and the written distribution agree."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel

from isoalign.core.batches import Prompts, Rollouts, completion_lengths
from isoalign.core.errors import UserError
from isoalign.models.language import LanguageModel
from isoalign.models.loading import load_model
from isoalign.stages.sft import with_adapter
from workbench import Bench

TEXTS = ["you are", "what a lovely page", "go", "thank you for your kind help"]


@pytest.fixture(scope="module")
def model(tiny_bench: Bench) -> LanguageModel:
    return tiny_bench.language_model()


@pytest.fixture(scope="module")
def open_model(tiny_bench: Bench) -> LanguageModel:
    """A model that may end its answer, and does so often."""
    model = tiny_bench.replace(ends=True).language_model()
    with torch.no_grad():
        model.head.weight[model.tokenizer.eos_token_id] *= 3  # type: ignore[operator,index]
    return model


@pytest.fixture(scope="module")
def absolute_model(model: LanguageModel) -> LanguageModel:
    """A model of another architecture, whose positions are counted from the first token, so that padding could shift them."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2, bos_token_id=0, eos_token_id=0
    )
    return LanguageModel(GPT2LMHeadModel(config).eval(), model.tokenizer, ends=False)


def uniforms(rows: int, steps: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed))


def rows_of(rollouts: Rollouts) -> list[list[int]]:
    return [tokens[mask].tolist() for tokens, mask in zip(rollouts.completion, rollouts.completion_mask, strict=True)]


def next_token(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """The next-token distribution by the plainest road: no cache, no padding, no harness."""
    logits = model.inner(input_ids=torch.tensor([ids])).logits[0, -1].double()
    logits[model.banned] = -torch.inf
    return logits.softmax(-1)


def test_prompts_are_padded_on_the_left_and_cut_behind_their_opening_token(model: LanguageModel) -> None:
    prompts = model.encode(TEXTS, longest=6)
    full = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    for row, ids in enumerate(full):
        real = prompts.tokens[row][prompts.mask[row]].tolist()
        assert real == (ids if len(ids) <= 6 else [ids[0], *ids[-5:]])
        assert prompts.mask[row].tolist() == sorted(prompts.mask[row].tolist())
    assert max(map(len, full)) > 6
    assert (prompts.tokens[~prompts.mask] == model.tokenizer.pad_token_id).all()


@torch.no_grad()
def test_each_token_is_picked_where_its_uniform_falls_in_the_cumulative_distribution(model: LanguageModel) -> None:
    prompts, numbers = model.encode(TEXTS, 24), uniforms(4, 6)
    drawn = model.generate(prompts, numbers)
    for row, answer in enumerate(rows_of(drawn)):
        ids = prompts.tokens[row][prompts.mask[row]].tolist()
        for step, token in enumerate(answer):
            cumulative = next_token(model, ids).cumsum(-1)
            below = cumulative[token - 1] if token else 0.0
            assert below - 1e-5 <= numbers[row, step] <= cumulative[token] + 1e-5
            ids.append(token)


@torch.no_grad()
def test_a_grid_of_uniforms_draws_every_token_as_often_as_its_probability_says(model: LanguageModel) -> None:
    count = 20_000
    grid = ((torch.arange(count) + 0.5) / count).unsqueeze(1)
    prompt = model.encode(["you are"], 24)
    drawn = model.generate(prompt, grid).completion[:, 0].bincount(minlength=model.vocabulary)
    expected = next_token(model, prompt.tokens[0].tolist()) * count
    assert (drawn - expected).abs().max() <= 1.5  # a grid can be off by one at either edge


@torch.no_grad()
def test_random_uniforms_pass_a_chi_square_test(model: LanguageModel) -> None:
    prompt = model.encode(["what a"], 24)
    drawn = model.generate(prompt, uniforms(20_000, 1, seed=7)).completion[:, 0].bincount(minlength=model.vocabulary)
    expected = next_token(model, prompt.tokens[0].tolist()) * 20_000
    common = expected > 20
    found = torch.cat([drawn[common].double(), drawn[~common].sum(0, keepdim=True).double()])
    hoped = torch.cat([expected[common], expected[~common].sum(0, keepdim=True)])
    assert chisquare(found.numpy(), hoped.numpy()).pvalue > 1e-3


@torch.no_grad()
def test_log_probabilities_of_an_answer_are_those_of_decoding_it_token_by_token(model: LanguageModel) -> None:
    drawn = model.generate(model.encode(TEXTS, 24), uniforms(4, 5))
    outputs = model(drawn)
    for row, answer in enumerate(rows_of(drawn)):
        ids = drawn.tokens[row, : drawn.prompt_length][drawn.mask[row, : drawn.prompt_length]].tolist()
        for step, token in enumerate(answer):
            chances = next_token(model, ids)
            assert outputs.logp[row, step].item() == pytest.approx(chances[token].log().item(), abs=1e-5)
            entropy = -(chances * chances.clamp(min=1e-300).log()).sum().item()
            assert outputs.entropy[row, step].item() == pytest.approx(entropy, abs=1e-5)
            ids.append(token)


@pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "absolute"])
@torch.no_grad()
def test_neither_padding_nor_the_company_of_other_rows_changes_an_answer_or_its_score(
    model: LanguageModel, absolute_model: LanguageModel, rotary: bool
) -> None:
    model = model if rotary else absolute_model
    prompts, numbers = model.encode(TEXTS, 24), uniforms(4, 5)
    together = model.generate(prompts, numbers)
    scored = model(together).logp
    for row in range(4):
        ids = prompts.tokens[row][prompts.mask[row]].unsqueeze(0)
        alone = Prompts(ids, torch.ones_like(ids).bool(), torch.tensor([row]))
        single = model.generate(alone, numbers[row : row + 1])
        assert rows_of(single) == rows_of(together)[row : row + 1]
        torch.testing.assert_close(model(single).logp[0], scored[row], atol=1e-5, rtol=0)
    wide = torch.full((4, 3), model.tokenizer.pad_token_id)
    padded = Rollouts(
        torch.cat([wide, together.tokens, wide], 1),
        torch.cat([wide.bool() & False, together.mask, wide.bool() & False], 1),
        together.prompt_length + 3,
    )
    again = model(padded)
    torch.testing.assert_close(again.logp[:, :5], scored, atol=1e-5, rtol=0)
    assert (again.logp[:, 5:] == 0).all()


@torch.no_grad()
def test_draws_that_share_a_prefill_equal_draws_made_one_by_one(model: LanguageModel) -> None:
    prompts, numbers = model.encode(TEXTS, 24), uniforms(4 * 3, 5)
    shared = model.generate(prompts, numbers)
    assert len(shared) == 12
    for draw in range(3):
        alone = model.generate(prompts, numbers[draw::3])
        assert rows_of(alone) == rows_of(shared)[draw::3]
        assert torch.equal(alone.tokens[:, : alone.prompt_length], prompts.tokens)


@torch.no_grad()
def test_banned_tokens_are_never_drawn_and_have_no_probability(model: LanguageModel) -> None:
    assert model.banned.tolist() == [model.tokenizer.eos_token_id, model.tokenizer.pad_token_id]
    edges = torch.tensor([0.0, 1e-7, 0.5, 1 - 2**-24]).repeat_interleave(4).unsqueeze(1).expand(16, 5)
    for numbers in (edges, uniforms(400, 5)):
        drawn = model.generate(model.encode(TEXTS, 24), numbers.contiguous())
        assert not torch.isin(drawn.completion, model.banned).any()
        assert drawn.completion_mask.all()
    logits = model(drawn).logits
    assert (logits.softmax(-1)[..., model.banned] == 0).all()


@torch.no_grad()
def test_an_open_answer_ends_at_the_end_token_which_belongs_to_it(open_model: LanguageModel) -> None:
    end, pad = open_model.tokenizer.eos_token_id, open_model.tokenizer.pad_token_id
    assert open_model.banned.tolist() == [pad]
    drawn = open_model.generate(open_model.encode(TEXTS, 24), uniforms(400, 8))
    lengths = completion_lengths(drawn)
    assert 1 in lengths
    assert 8 in lengths
    for tokens, mask, length in zip(drawn.completion, drawn.completion_mask, lengths, strict=True):
        assert mask.tolist() == [place < length for place in range(drawn.completion.shape[1])]
        assert (tokens[:length] == end).tolist() == [False] * (length - 1) + [length < 8 or int(tokens[length - 1]) == end]
        assert (tokens[length:] == pad).all()


@torch.no_grad()
def test_what_follows_the_end_of_one_answer_does_not_change_another(open_model: LanguageModel) -> None:
    prompts, numbers = open_model.encode(TEXTS, 24), uniforms(4, 8, seed=3)
    together = rows_of(open_model.generate(prompts, numbers))
    assert len(set(map(len, together))) > 1
    alone = [rows_of(open_model.generate(prompts[slice(i, i + 1)], numbers[i : i + 1]))[0] for i in range(4)]
    assert alone == together


@torch.no_grad()
def test_the_text_of_an_answer_has_no_special_tokens_and_no_prompt(open_model: LanguageModel) -> None:
    words = open_model.tokenizer(" kind help", add_special_tokens=False)["input_ids"]
    prompt = open_model.encode(["you"], 24)
    answer = torch.tensor([[*words, open_model.tokenizer.eos_token_id]])
    tokens = torch.cat([prompt.tokens, answer], 1)
    assert open_model.decode(Rollouts(tokens, torch.ones_like(tokens).bool(), prompt.tokens.shape[1])) == [" kind help"]


def test_the_state_of_each_position_is_what_the_head_predicts_its_token_from(model: LanguageModel) -> None:
    drawn = model.generate(model.encode(TEXTS, 24), uniforms(4, 3))
    outputs = model(drawn)
    again = model.head(outputs.hidden)
    allowed = [i for i in range(model.vocabulary) if i not in model.banned.tolist()]
    torch.testing.assert_close(again[..., allowed], outputs.logits[..., allowed])


def test_a_model_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the model"):
        load_model(str(tmp_path / "nothing"))


def test_a_saved_adapter_does_not_depend_on_where_the_model_under_it_lies(tiny_model: Path, tmp_path: Path) -> None:
    saved = []
    for place in ("here", "there"):
        shutil.copytree(tiny_model, tmp_path / place)
        torch.manual_seed(0)
        model, tokenizer = load_model(str(tmp_path / place))
        LanguageModel(with_adapter(model, 2), tokenizer, ends=True).save(tmp_path / f"saved-{place}")
        saved.append({file.name: file.read_bytes() for file in (tmp_path / f"saved-{place}").iterdir()})
    assert saved[0] == saved[1]
    modules = json.loads(saved[0]["adapter_config.json"])["target_modules"]
    assert modules == sorted(modules)
    again = peft.PeftModel.from_pretrained(load_model(str(tiny_model))[0], str(tmp_path / "saved-here"))
    assert again.peft_config["default"].r == 2
