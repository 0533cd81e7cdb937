"""Outputs of a pass whose rows the processes of a run have shared out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

from torch import Tensor

from isoalign.core import sharing
from isoalign.core.errors import UserError
from isoalign.models.language import LanguageModel
from isoalign.models.passes import Outputs, Predict


class GatheredOutputs(Outputs):
    """Outputs of all rows, in every process. Log-probabilities are gathered at once; what is larger, when it is asked for.

    ``read``: the pass over this process's own rows, None for none; ``predict``: what makes logits where there are none;
    ``in_loss``: whether a loss is computed, in which the processes do not wait for one another; ``holding``: what makes
    contexts in which every process has the model's weights, which all of them enter.
    """

    def __init__(
        self,
        read: Callable[[], Outputs | None],
        model: LanguageModel,
        predict: Callable[[], Predict],
        in_loss: Callable[[], bool],
        holding: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        found: list[Outputs | None] = []

        def logp() -> Tensor | None:
            found.append(read())
            return found[0].logp if found[0] else None

        with holding():
            gathered = sharing.gather_rows(logp).to(model.device)
            vars(self).update(
                logp=gathered, vocabulary=model.vocabulary, device=model.device, mine=found[0],
                elsewhere=None if found[0] else predict(), in_loss=in_loss, context=nullcontext, holding=holding,
            )  # fmt: skip

    def _gathered(self, name: str) -> Tensor:
        own = vars(self)
        if own["in_loss"]():
            raise UserError(f"a loss reads {name} of a pass that iteration() made; read it there, and yield it in the batch")
        with own["context"](), own["holding"]():
            rows: Tensor = sharing.gather_rows(lambda: own["mine"] and getattr(own["mine"], name))
        return rows.to(own["device"])

    @cached_property
    def hidden(self) -> Tensor:  # type: ignore[override]
        """As in one process."""
        return self._gathered("hidden")

    @cached_property
    def logits(self) -> Tensor:
        """As in one process."""
        return self._gathered("logits")

    @cached_property
    def entropy(self) -> Tensor:
        """As in one process."""
        return self._gathered("entropy")

    @property
    def predict(self) -> Predict:  # type: ignore[override]
        """As in one process."""
        mine, elsewhere = vars(self)["mine"], vars(self)["elsewhere"]
        found: Predict = mine.predict if mine else elsewhere
        return found

    def within(self, context: Callable[[], AbstractContextManager[Any]]) -> Outputs:
        """The same outputs, gathered within a context."""
        if vars(self)["mine"]:
            vars(self)["mine"] = vars(self)["mine"].within(context)
        vars(self)["context"] = context
        return self
