"""The rules of the house that a machine can hold: who imports whom, what the surface is, and that nothing happens at import."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import semid
from semid import cli, flags
from semid.serving.limits import Limits

HOUSE = Path(semid.__file__).parent
STAGES = ("data", "encoders", "scorers", "tokenizers", "generators", "objectives", "decoding", "evaluation")
"""Packages that never see each other."""

CONTRACTS = ("errors", "types", "protocols", "tree", "files")
MAY_SEE = {
    "errors": (), "files": ("errors",), "types": ("errors",), "protocols": ("types",), "tree": CONTRACTS,
    "nn": ("errors",),
    "training": (*CONTRACTS, "nn"),
    **dict.fromkeys(STAGES, (*CONTRACTS, "nn", "training")),
}
"""What each may import besides itself. Everything else (run, compare, recipes, cli, ...) sees all but serving and cli."""

ONLY_FOR_CLI = ("flags", "views", "serving", "cli")

VERBS = {
    "demo": {"out", "seed", "serve"},
    "data check": {"events", "reading", "bad_rows"},
    "train": {"recipe", "data", "out", "reading", "splitting", "set", "seed", "resume", "device"},
    "evaluate": {"run", "protocol", "part"},
    "compare": {"recipes", "data", "out", "reading", "splitting", "set", "codes", "seeds", "no_baselines", "against", "name", "results",
                "device"},
    "recommend": {"run", "user", "history", "users", "out", "k", "where", "exclude", "rule", "seen", "at", "engine"},
    "explain": {"run", "item", "user", "history"},
    "add": {"run", "items", "item_id", "view", "skip_known"},
    "update": {"run", "items", "item_id", "skip_unknown"},
    "remove": {"run", "items", "item_id"},
    "restore": {"run", "items", "item_id"},
    "codes": {"run", "examples", "export"},
    "serve": {"run", "port", "host", "key_file", "store", "drain", "engine", "beside", "limits"},
    "events": {"store", "out", "data", "reading"},
    "recipes": {"name", "results"},
    "doctor": set(),
}
READING = {"items", "user", "item", "time", "position", "action", "actions", "value", "split_column", "item_id", "text", "view", "order",
           "on_bad_rows", "duplicates", "unknown_items", "user_core", "item_core", "min_events"}
SPLITTING = {"split", "max_history", "seen", "shuffle_ties", "valid_from", "test_from", "held_out", "split_seed", "min_history"}
LIMITS = {"max_body", "max_k", "max_history", "max_beams", "max_ids", "max_where", "max_explained", "max_events", "max_items",
          "max_batch", "max_waiting", "max_rate", "max_seconds", "max_change_seconds", "max_read_seconds", "max_connections"}
DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
EXPORTS = {"Protocol", "Run", "SemidError", "compare", "load", "read", "train"}


def sources() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def imports(file: Path) -> set[str]:
    """Modules of semid that a file imports, at the top or inside functions, but not those for the type checker alone."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "semid" else {node.module}
    return {name.removeprefix("semid.") for name in found if name.startswith("semid.")}


def room(file: Path) -> str:
    """The package or top-level module a file belongs to."""
    return file.relative_to(HOUSE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", [f for f in sources() if room(f) in MAY_SEE], ids=lambda f: str(f.relative_to(HOUSE)))
def test_stages_see_contracts_only(file: Path):
    own = room(file)
    seen = {name.split(".")[0] for name in imports(file)} - {own}
    assert seen <= set(MAY_SEE[own]), f"{file.relative_to(HOUSE)} must not import {sorted(seen - set(MAY_SEE[own]))}"


@pytest.mark.parametrize("file", [f for f in sources() if room(f) not in ONLY_FOR_CLI and f.name != "__main__.py"],
                         ids=lambda f: str(f.relative_to(HOUSE)))
def test_nothing_below_the_command_line_imports_it(file: Path):
    """But for one thing: a run whose items were changed after training answers through the engine, which knows the changes."""
    allowed = {"serving"} if file == HOUSE / "run.py" else set()
    assert not {name.split(".")[0] for name in imports(file)} & set(ONLY_FOR_CLI) - allowed


def test_the_verbs_and_their_flags_are_a_closed_list():
    found = {verb: set(inspect.signature(run).parameters) - {"json", "quiet"} for verb, run in cli.VERBS.items()}
    assert found == VERBS
    assert {field.name for field in dataclasses.fields(flags.Reading)} == READING
    assert {field.name for field in dataclasses.fields(flags.Splitting)} == SPLITTING
    assert {field.name for field in dataclasses.fields(Limits)} == LIMITS


def test_every_verb_prints_json_and_documents_it():
    for verb, run in cli.VERBS.items():
        assert "json" in inspect.signature(run).parameters, verb
        assert "JSON" in (run.__doc__ or ""), verb


def test_exports_are_a_closed_list_and_all_there():
    assert set(semid.__all__) == EXPORTS
    for name in EXPORTS:
        assert getattr(semid, name) is not None
        assert not inspect.ismodule(getattr(semid, name)), f"a module semid.{name} would hide what semid exports under its name"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        semid.trian  # noqa: B018


def test_packages_hold_no_logic_in_init():
    for file in HOUSE.glob("*/__init__.py"):
        assert not file.read_text(encoding="utf-8").strip(), file


def test_no_file_has_a_name_that_says_nothing():
    empty = {"utils", "helpers", "common", "base", "misc", "manager"}
    assert not [f for f in sources() if f.stem in empty or f.stem.startswith("new_") or f.stem.endswith("_v2")]


@pytest.mark.parametrize("file", sources(), ids=lambda f: str(f.relative_to(HOUSE)))
def test_modules_do_no_work_at_import(file: Path):
    """Top-level statements only define: no calls for their effect, no loops, no `with`, no prints."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"), f"{file}:{node.lineno}"
        else:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_text or isinstance(node, DEFINES), f"{file}:{node.lineno}: {ast.unparse(node)[:80]}"
        assert not (isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)), f"{file}: import *"


HEAVY = ("torch", "duckdb", "pyarrow", "numba", "transformers", "pandas", "scipy")
LIGHT = {
    "import semid": (*HEAVY, "numpy", "rich", "tyro"),
    "from semid.cli import main; main(['--help'])": (*HEAVY, "numpy"),
    "from semid.cli import main; main(['train', '--help'])": (*HEAVY, "numpy"),
    "from semid.cli import main; main(['recipes'])": (*HEAVY, "numpy"),
    "from semid.cli import main; main(['data', 'check', 'no-such-file.csv'])": ("torch", "numba", "transformers", "scipy"),
}


def test_light_commands_stay_light():
    """One process for all: each line adds to what the earlier ones imported, so they run from the strictest to the loosest."""
    script = "import sys\n" + "".join(
        f"{code}\nprint('LOADED', sorted(set({banned!r}) & set(sys.modules)))\n" for code, banned in
        sorted(LIGHT.items(), key=lambda entry: -len(entry[1])))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("LOADED")] == ["LOADED []"] * len(LIGHT)
