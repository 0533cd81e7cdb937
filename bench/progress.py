"""Progress bars with an estimate: on a terminal they move, in a log they are a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 15.0


def track(items: Iterable[Item], label: str) -> Iterable[Item]:
    """Iterate with a bar."""
    return tqdm(items, desc=f"{label:<24}", mininterval=_interval(), leave=True, dynamic_ncols=True)


class Progress:
    """A bar along the budget; it starts with the first thing it is shown, so that waiting for shared stages is not in the
    estimate."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Any = None

    def show(self, fraction: float, row: dict[str, Any]) -> None:
        """Move to a fraction of the budget, with the latest loss and reward beside it."""
        if self.bar is None:
            layout = "{desc}{percentage:3.0f}%|{bar:24}| {elapsed}<{remaining}{postfix}"
            self.bar = tqdm(total=1.0, desc=f"{self.label:<24}", mininterval=_interval(), bar_format=layout, initial=fraction)
        fields = {name: f"{row[name]:.3g}" for name in ("loss", "reward") if row.get(name) is not None}
        self.bar.set_postfix(fields, refresh=False)
        self.bar.update(min(fraction, 1.0) - self.bar.n)

    def close(self) -> None:
        """The budget is spent."""
        if self.bar is not None:
            self.bar.update(1.0 - self.bar.n)
            self.bar.close()


def trainer_callback(label: str) -> Any:
    """The same bar for a transformers Trainer, in the place of its own printing."""
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(total=state.max_steps, desc=f"{label:<24}", mininterval=_interval(), dynamic_ncols=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(1)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    return Bar()
