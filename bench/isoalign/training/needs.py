"""What an algorithm asks of its task, before it is run: by its declaration, or else by what its code names."""

from __future__ import annotations

from typing import Any

from isoalign.training import registry

SERVICES = ("pairs", "labels", "reward", "judge", "judge_score", "revisions", "teacher")
"""Services of the lab that a task may not have; beside these, ``judge_reward`` is a reward model of a judge's verdicts, and
``all_weights`` that no adapter is trained."""

CERTAIN = {"revisions", "teacher"}


def needs_of(algorithm: Any) -> frozenset[str]:
    """The services that an algorithm with its settings asks for. Of one that declares none and may ask a judge in place of
    the annotator, those that it asks for in either case: what its settings decide is found when it asks. A setting that is
    "teacher" asks for one, whatever is declared."""
    return _asked_for(algorithm) | ({"teacher"} if _chooses(algorithm, "teacher") else set())


def _asked_for(algorithm: Any) -> frozenset[str]:
    if (declared := getattr(algorithm, "needs", None)) is None:
        either = registry.names_constant(type(algorithm), "judge")
        found = {service for service in SERVICES if names(type(algorithm), service)}
        return frozenset(found & CERTAIN if either else found)
    return frozenset(need for setting, needs in declared.items() if _holds(algorithm, setting) for need in needs)


def names(cls: type, service: str) -> bool:
    """Whether the code of an algorithm names a service, or samples by the teacher or takes log-ratios to it."""
    return registry.uses_attribute(cls, service) or (service == "teacher" and registry.names_constant(cls, service))


def _chooses(algorithm: Any, role: str) -> bool:
    """Whether one of the algorithm's settings is the name of a role, or a list with it."""
    values = registry.hyperparameters(algorithm).values()
    return any(role in (value if isinstance(value, list | tuple) else [value]) for value in values)


def _holds(algorithm: Any, setting: str) -> bool:
    """Whether the algorithm has a setting, as ``labelled_by=judge``; an empty one holds always."""
    name, _, value = setting.partition("=")
    return not setting or str(getattr(algorithm, name)) == value
