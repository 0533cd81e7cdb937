"""Results as a data set: parquet tables of metrics, of values by prompt and of samples, a card for the hub, and Croissant
metadata (https://docs.mlcommons.org/croissant)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isoalign.core.files import save
from isoalign.core.lazy import pyarrow
from isoalign.report.board.rows import part_of, stage_identity
from isoalign.tools.exports.evidence import Evidence

Row = dict[str, Any]
COLUMNS = {
    "cards": {
        "card": "string", "task": "string", "algorithm": "string", "seed": "int64", "part": "string", "budget_flops": "double",
        "spent_flops": "double", "base": "string", "settings": "string", "tuning": "string", "gated": "bool",
        "flags": "string", "versions": "string", "budget": "string", "task_settings": "string", "split": "string",
        "command": "string",
    },
    "metrics": {
        "card": "string", "task": "string", "algorithm": "string", "seed": "int64", "metric": "string", "value": "double",
        "low": "double", "high": "double", "n": "int64", "missing": "int64",
    },
    "values": {"card": "string", "prompt_id": "string", "metric": "string", "value": "double"},
    "samples": {
        "card": "string", "prompt_id": "string", "draw": "int64", "prompt": "string", "completion": "string",
        "scorer": "string", "score": "double", "kl": "double",
    },
}  # fmt: skip
"""Tables and the types of their columns, by the names of Arrow."""
CROISSANT = {"string": "sc:Text", "int64": "sc:Integer", "double": "sc:Float", "bool": "sc:Boolean"}


def write(evidence: Sequence[Evidence], folder: Path, dataset: str) -> None:
    """Write ``TABLE.parquet`` for each table with rows, ``README.md`` and ``croissant.json``."""
    made = {
        "cards": map(_of_card, evidence),
        "metrics": _metrics(evidence),
        "values": _values(evidence),
        "samples": _samples(evidence),
    }
    tables = {name: found for name, rows in made.items() if (found := list(rows))}
    for name, rows in tables.items():
        schema = pyarrow.schema([(column, getattr(pyarrow, _arrow(kind))()) for column, kind in COLUMNS[name].items()])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    save(folder / "README.md", _card(evidence, list(tables)))
    save(folder / "croissant.json", json.dumps(_croissant(evidence, folder, list(tables)), indent=1) + "\n")


def _arrow(kind: str) -> str:
    return {"double": "float64", "bool": "bool_"}.get(kind, kind)


def _of_card(one: Evidence) -> Row:
    """What a card's figures are of, and what must be known before they are compared."""
    card = one.card
    return {
        "card": card.key, "task": card.task, "algorithm": card.algorithm, "seed": card.seed, "part": part_of(card),
        "budget_flops": card.budget.get("flops"), "spent_flops": card.spent.get("flops"), "base": stage_identity(card, "sft"),
        "settings": json.dumps(card.config.get("algorithm"), sort_keys=True), "tuning": str(card.notes.get("tuning") or ""),
        "gated": any(flag.kind == "gate" for flag in card.flags), "flags": "; ".join(map(str, card.flags)),
        "versions": json.dumps(card.versions, sort_keys=True), "budget": json.dumps(card.budget, sort_keys=True),
        "task_settings": json.dumps(card.config.get("task"), sort_keys=True), "split": str(card.notes.get("split") or ""),
        "command": card.command,
    }  # fmt: skip


def _metrics(evidence: Sequence[Evidence]) -> Iterator[Row]:
    for one in evidence:
        card = one.card
        for name, estimate in card.metrics.items():
            yield {"card": card.key, "task": card.task, "algorithm": card.algorithm, "seed": card.seed, "metric": name,
                   **vars(estimate)}  # fmt: skip


def _values(evidence: Sequence[Evidence]) -> Iterator[Row]:
    for one in evidence:
        for name, by_prompt in one.card.values.items():
            for prompt, value in by_prompt.items():
                yield {"card": one.card.key, "prompt_id": prompt, "metric": name, "value": value}


def _samples(evidence: Sequence[Evidence]) -> Iterator[Row]:
    for one in evidence:
        for i, sample in enumerate(one.samples):
            for scorer, scores in (one.scores or {"": [None] * len(one.samples)}).items():
                yield {"card": one.card.key, "prompt_id": sample.prompt_id, "draw": sample.draw, "prompt": sample.prompt,
                       "completion": sample.completion, "scorer": scorer, "score": scores[i], "kl": sample.kl}  # fmt: skip


def _about(evidence: Sequence[Evidence]) -> str:
    return f"Results of isoalign, a benchmark of alignment methods: {len(evidence)} cards of {', '.join(_tasks(evidence))}."


def _tasks(evidence: Sequence[Evidence]) -> list[str]:
    return sorted({one.task for one in evidence})


def _card(evidence: Sequence[Evidence], tables: list[str]) -> str:
    """The card of the data set; the hub's viewer and ``datasets.load_dataset(FOLDER, TABLE)`` read its head."""
    head = ["---", "tags: [isoalign]", "configs:"]
    for name in tables:
        head += [f"- config_name: {name}", f"  data_files: {name}.parquet"]
    lines = [
        _about(evidence),
        "Intervals are 95% over prompts. A column is empty where a value is missing." + (
            " Samples may be offensive text: it is what the models wrote." if "samples" in tables else ""
        ),
        *(f"- `{name}`: {', '.join(COLUMNS[name])}" for name in tables),
    ]  # fmt: skip
    return "\n".join([*head, "---", "", "# isoalign results", "", *lines]) + "\n"


def _croissant(evidence: Sequence[Evidence], folder: Path, tables: list[str]) -> dict[str, Any]:
    """The metadata as JSON-LD of Croissant 1.0, which all its readers take."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"isoalign-{'-'.join(_tasks(evidence))}",
        "description": _about(evidence),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": [
            {
                "@type": "cr:FileObject", "@id": f"{name}.parquet", "name": f"{name}.parquet",
                "contentUrl": f"{name}.parquet", "encodingFormat": "application/x-parquet",
                "sha256": hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest(),
            }
            for name in tables
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet", "@id": name, "name": name,
                "field": [
                    {
                        "@type": "cr:Field", "@id": f"{name}/{column}", "name": column, "dataType": CROISSANT[kind],
                        "source": {"fileObject": {"@id": f"{name}.parquet"}, "extract": {"column": column}},
                    }
                    for column, kind in COLUMNS[name].items()
                ],
            }
            for name in tables
        ],
    }  # fmt: skip


CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/", "extract": "cr:extract",
    "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform", "examples": {"@id": "cr:examples", "@type": "@json"}, "rai": "http://mlcommons.org/croissant/RAI/",
    "samplingRate": "cr:samplingRate",
}  # fmt: skip
"""The prefixes and terms that the specification asks for."""
