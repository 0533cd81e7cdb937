"""What the processes of a run agree on between two iterations: whether to save and stop, and that they train one model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from isoalign.core import sharing, stopping, world
from isoalign.core.errors import UserError
from isoalign.models.shards import is_cut
from isoalign.training.session import Session


def agreed_to_save(session: Session, parameters: Mapping[str, Sequence[nn.Parameter]], due: bool) -> bool:
    """Whether to save now: where the first process finds it ``due``, or any of them was asked to stop.

    Raises UserError if their weights, bills or states differ, for then they do not train one model.
    """
    if world.size() > 1:
        places = sharing.exchange((due, stopping.signal_asked(), _place(session, parameters)))
        due = places[0][0]
        stopping.ask(max(number for _, number, _ in places))
        if any(place != places[0][2] for *_, place in places):
            raise UserError(
                "the processes of this run have parted ways: a loss that draws random numbers or writes lab.state does so; "
                "draw and write in iteration()"
            )
    return due or stopping.asked()


def _place(session: Session, parameters: Mapping[str, Sequence[nn.Parameter]]) -> tuple[Any, ...]:
    whole = [p for group in parameters.values() for p in group if not is_cut(p)]  # of what is cut there is but one
    weights = torch.stack([p.detach().float().sum() for p in whole]).tolist() if whole else []
    state = json.dumps(session.state, sort_keys=True)
    return state, session.meter.paid, str(weights), bytes(session.generator.get_state().tolist())
