"""Trees of messages whose answers people ranked: every two ranked answers to one message make a comparison.

Köpf et al. 2023, "OpenAssistant conversations: democratizing large language model alignment".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

from isoalign.data.formats.rows import MOST_ANSWERS, Fault, Row, quoted
from isoalign.data.formats.types import TIE, UNRANKED, Comparison, Node, Record, Remark, Turn, Turns, unless_equal

COLUMNS = (("message_id", "text", "role", "message_tree_id"), ("message_tree_id", "prompt"))
OPTIONAL = ("parent_id", "rank")
_ROLES = {"prompter": "user", "user": "user", "assistant": "assistant"}


def records(row: Row) -> Iterator[Node]:
    """The row's message, or all messages of a row that is a whole tree (``prompt`` with ``replies``)."""
    if row.has("message_id"):
        yield _node(row, row.values, row.values.get("parent_id"))
        return
    waiting: list[tuple[Any, Any]] = [(row.get_object("prompt"), None)]
    while waiting:
        message, parent = waiting.pop()
        if not isinstance(message, dict):
            raise row.fault(f"a reply must be an object with message_id, text and role, not {quoted(message)}")
        yield _node(row, message, parent)
        waiting += [(reply, message["message_id"]) for reply in reversed(message.get("replies") or [])]


def _node(row: Row, message: Any, parent: Any) -> Node:
    for key in ("message_id", "text", "role"):
        if not isinstance(message.get(key), str):
            raise row.fault(f"{key} must be a text, not {quoted(message.get(key))}")
    if message["role"] not in _ROLES:
        raise row.fault(f"unknown role {quoted(message['role'])}; known: {', '.join(_ROLES)}")
    rank = message.get("rank")
    rank = row.finite_number("rank", rank) if rank not in (None, "") else None
    turn = Turn(_ROLES[message["role"]], row.valid_text("text", message["text"]))
    tree = row.values.get("message_tree_id")
    return Node(message["message_id"], parent or "", turn, rank, row.number, row.source, "" if tree is None else str(tree))


def compare(nodes: Iterable[Node]) -> Iterator[Record]:
    """Comparisons of the assistant's answers to each message, in the order of the file; the prompt is the path to it.

    Raises Fault if a message that is answered is not in the file or is an assistant's, for two messages of one id in a tree,
    and at the 1001st answer to one.
    """
    known: dict[tuple[str, str], Node] = {}
    answers: dict[tuple[str, str], list[Node]] = {}
    for node in nodes:
        place = (node.tree, node.identity)
        if (other := known.setdefault(place, node)).turn != node.turn:
            raise Fault(node.row, f"message_id {quoted(node.identity)} is that of another message, in row {other.row}")
        if node.parent and node.turn.role == "assistant":
            answers.setdefault((node.tree, node.parent), []).append(node)
    for (tree, parent), given in answers.items():
        if (asked := known.get((tree, parent))) and asked.turn.role == "assistant":
            raise Fault(given[0].row, f"message {quoted(given[0].identity)} answers a message of the assistant's")
        if len(given) > MOST_ANSWERS:
            raise Fault(given[MOST_ANSWERS].row, f"more than {MOST_ANSWERS} answers to one message: too many pairs")
        if len(given) == 1:
            continue
        yield from [Remark(UNRANKED)] * sum(node.rank is None for node in given)
        prompt = _path(known, given[0])
        for one, two in combinations([node for node in given if node.rank is not None], 2):
            yield _comparison(prompt, one, two)


def _comparison(prompt: Turns, one: Node, two: Node) -> Record:
    if one.rank == two.rank:
        return Remark(TIE)
    better, worse = sorted((one, two), key=lambda node: node.rank or 0)
    return unless_equal(Comparison(prompt, (better.turn,), (worse.turn,), better.row, "", better.source))


def _path(known: dict[tuple[str, str], Node], node: Node) -> Turns:
    """The turns from the first message to the one that ``node`` answers."""
    turns: list[Turn] = []
    seen = {node.identity}
    while node.parent:
        place = (node.tree, node.parent)
        if place not in known or node.parent in seen:
            why = "is not in the file" if place not in known else "leads back to the message itself"
            raise Fault(node.row, f"parent_id {quoted(node.parent)} {why}")
        node = known[place]
        seen.add(node.identity)
        turns.insert(0, node.turn)
    return tuple(turns)
