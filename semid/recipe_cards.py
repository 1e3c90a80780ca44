"""What can be said of a recipe: summary, source, status, settings and variants, read from its file; importing it gives their values."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semid.config import override, read_where
from semid.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class RecipeCard:
    """doc: the module's docstring; summary: its first line; source, status: from its lines `Source: ... Status: ...`;
    settings: {name: (type, default)} as written in `Config`; meaning: the docstring of `Config`; variants: {name: {setting: value}}, as
    written too; read_where: {setting: "switch is value"} of those that are not always read, where `with_values` was asked."""

    name: str
    summary: str
    source: str
    status: str
    doc: str
    settings: dict[str, tuple[str, str]]
    variants: dict[str, dict[str, str]]
    meaning: str = ""
    read_where: dict[str, str] = dataclasses.field(default_factory=dict)


def recipe_names() -> list[str]:
    """Names of the recipes, one file each in `semid/recipes/`."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")


def recipe_card(name: str) -> RecipeCard:
    """Return the card of one recipe. Raises `ConfigError` for an unknown name."""
    if name not in recipe_names():
        raise ConfigError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}; known: {', '.join(recipe_names())}")
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    doc = ast.get_docstring(tree) or ""
    settings: dict[str, tuple[str, str]] = {}
    variants: dict[str, dict[str, str]] = {}
    meaning = ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            meaning = ast.get_docstring(node) or ""
            settings = {ast.unparse(field.target): (ast.unparse(field.annotation), _source(field.value))
                        for field in node.body if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) != "READ_WHERE"}
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "VARIANTS" and isinstance(node.value, ast.Dict):
            variants = dict(_entries(node.value))
    status = re.split(r";|\. ", _said(doc, "Status"))[0]
    return RecipeCard(name, doc.split("\n")[0], _said(doc, "Source"), status, doc, settings, variants, meaning)


def with_values(card: RecipeCard) -> RecipeCard:
    """Return the card with settings and variants by the names that `--set` takes, groups opened and last, and by their values.

    Imports the recipe, and with it torch.
    """
    module = importlib.import_module(f"semid.recipes.{card.name}")
    default = override(module.Config(), {})
    settings = dict(sorted(_settings(default), key=lambda entry: entry[0].count(".")))
    variants = {name: {path: value for path, (_, value) in _settings(override(default, changes)) if value != settings[path][1]}
                for name, changes in module.VARIANTS.items()}
    conditions = {path: said for path in settings if (said := read_where(default, path))}
    return dataclasses.replace(card, settings=settings, variants=variants, read_where=conditions)


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (path, (type, value)) of each setting of a config and its groups."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", (str(field.type), repr(value))


def _source(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)


def _entries(variants: ast.Dict) -> Iterator[tuple[str, dict[str, str]]]:
    for name, changes in zip(variants.keys, variants.values, strict=True):
        assert name is not None
        assert isinstance(changes, ast.Dict)
        yield ast.literal_eval(name), {ast.literal_eval(key): ast.unparse(value)
                                       for key, value in zip(changes.keys, changes.values, strict=True) if key}


def _said(doc: str, label: str) -> str:
    """The text behind `Label:` up to the next label or the end of the paragraph, on one line, without its full stop."""
    found = re.search(rf"\b{label}:\s*(.+?)(?=\.?\s*\b(?:Source|Status|Deviations|Relations):|\n\s*\n|\Z)", doc, re.DOTALL)
    return " ".join(found.group(1).split()).rstrip(".") if found else ""


def measured(folder: Path) -> dict[str, list[dict]]:
    """Return {recipe: [{"system", "data", "seeds", "recall@10", "ndcg@10"}]} from the JSON files in `folder`: means over seeds,
    test, seen items kept. Empty where there are none."""
    found: dict[tuple[str, str, str], list[dict]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if {"recipe", "system", "data_name", "test", "protocol_hash"} <= record.keys():
            found[record["system"], record["data_name"], record["protocol_hash"]].append(record)
    numbers: dict[str, list[dict]] = defaultdict(list)
    for (system, data, protocol), runs in found.items():
        means = {name: sum(run["test"]["keep"]["metrics"][name]["mean"] for run in runs) / len(runs)
                 for name in ("recall@10", "ndcg@10")}
        numbers[runs[0]["recipe"].partition(":")[0]].append({"system": system, "data": data, "protocol_hash": protocol,
                                                             "seeds": len(runs), **means})
    return dict(numbers)
