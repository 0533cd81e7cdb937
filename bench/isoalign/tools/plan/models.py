"""Models that are billed and compute nothing: on the meta device, with passes that give zeros and answers that are planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from isoalign.core.batches import Prompts, Rollouts
from isoalign.core.lazy import transformers
from isoalign.data import hub
from isoalign.models import loading
from isoalign.models.critic import Critic
from isoalign.models.decoding import Beside
from isoalign.models.flops import Shape, shape_of
from isoalign.models.language import LanguageModel
from isoalign.models.loading import without_adapter
from isoalign.models.passes import Outputs, zero_outputs
from isoalign.models.scalar_head import scalar_head_kind
from isoalign.stages.sft import with_adapter
from isoalign.training.lab import Lab

CPU = torch.device("cpu")


class PlannedModel(LanguageModel):
    """A language model without weights. Its answers have ``answer`` tokens, cut out of ``filler``; its outputs are zeros."""

    def __init__(self, model: Any, tokenizer: Any, ends: bool, answer: int, filler: Sequence[int]) -> None:
        self.model, self.tokenizer, self.ends = model, tokenizer, ends
        self.precision, self.rows = "float32", 10**9
        self.inner = without_adapter(model)
        self.head = self.inner.get_output_embeddings()
        self.end_ids = self.banned = torch.zeros(0, dtype=torch.long)
        self._adapter_is_off = True  # nothing is computed that an adapter would change
        self.answer, self.filler = answer, torch.tensor(filler or [0])
        self.inner.generate = self._continued

    @property
    def device(self) -> torch.device:
        """The CPU: batches have values."""
        return CPU

    def __call__(self, rollouts: Rollouts) -> Outputs:
        """Zeros."""
        return zero_outputs(rollouts, self.width, self.vocabulary, CPU)

    def generate(self, prompts: Prompts, uniforms: Tensor, beside: Beside | None = None) -> Rollouts:
        """Planned answers, as many as there are rows of ``uniforms``."""
        rows, width = uniforms.shape
        tokens, mask = (part.repeat_interleave(rows // len(prompts), 0) for part in (prompts.tokens, prompts.mask))
        said = (torch.arange(width) < min(self.answer, width)).expand(rows, width)
        answers = self.written(rows, width)
        return Rollouts(torch.cat([tokens, answers], 1), torch.cat([mask, said], 1), tokens.shape[1])

    def written(self, rows: int, width: int) -> Tensor:
        """Tokens of planned answers [rows, width], each from another place of the filler."""
        places = 7 * torch.arange(rows).unsqueeze(1) + torch.arange(width)
        return self.filler[places % len(self.filler)]

    def _continued(self, input_ids: Tensor, generation_config: Any, **_: Any) -> Tensor:
        """Stands for transformers' ``generate``, which critics and chains of thought use: all tokens are written."""
        return torch.cat([input_ids, self.written(len(input_ids), int(generation_config.max_new_tokens))], 1)


class PlannedCritic(Critic):
    """A separate value model that gives zeros; its passes are charged by the policy's shape."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, rollouts: Rollouts) -> Tensor:
        """A value for each token of the completions [B, T]."""
        return torch.zeros(rollouts.completion.shape)


class Hollow(nn.Module):
    """A module of an algorithm whose passes are counted on the meta device, and give zeros."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = (module.to("meta"),)  # in a tuple, so that it stays there

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Zeros in the shapes of the module's outputs."""
        given, by_name = _each_tensor(lambda each: each.to("meta"), (inputs, named))
        made = self._module[0](*given, **by_name)
        zero = torch.zeros((), requires_grad=torch.is_grad_enabled())
        return _each_tensor(lambda each: zero.expand(each.shape), made)


def _each_tensor(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, tree)


class PlannedLab(Lab):
    """The lab, whose modules compute nothing."""

    def module(self, name: str, factory: Callable[[int], nn.Module]) -> nn.Module:
        """A module whose passes are charged to ``name``."""
        return super().module(name, lambda width: Hollow(factory(width)))


def language_model(name: str) -> Any:
    """A language model of the meta device. Raises UserError for a name whose config.json is not at hand."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(loading.load_config(name)).eval()


def reward_shapes(name: str, lora: int = 0) -> tuple[Shape, Shape]:
    """The shapes of a scalar head on the model ``name``: as it is trained (LoRA of rank ``lora``) and as it scores."""
    path = loading.model_path(name)
    with hub.loading_errors("the reward model", path):
        config = transformers.AutoConfig.from_pretrained(path, num_labels=1, trust_remote_code=False)
    kind = scalar_head_kind(config)
    with torch.device("meta"):
        model = getattr(kind, "from_config", kind)(config)
    plain = shape_of(model.requires_grad_(not lora), None)
    return (shape_of(with_adapter(model, lora, "SEQ_CLS"), None) if lora else plain), plain


class Tokenless:
    """What stands for a tokenizer that is not at hand: texts are not read, and tokens have the ids that are planned."""

    pad_token_id = 0
    chat_template = None
    name_or_path = ""

    @cached_property
    def all_special_ids(self) -> list[int]:
        """None."""
        return []

    def decode(self, ids: Any, **_: Any) -> str:
        """Four characters a token, as in English."""
        return "word " * max(1, len(ids) * 4 // 5)

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """The text of each row."""
        return [self.decode(row) for row in rows]
