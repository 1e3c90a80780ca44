"""What is installed, what is missing, what this machine can do."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from semid.encoders.cache import cache_folder

_REQUIREMENT = re.compile(r"""^([A-Za-z0-9._-]+).*?(?:;.*extra\s*==\s*['"](\w+)['"])?$""")


def examine() -> dict:
    """Return {"versions", "extras", "machine", "folders", "problems"}, plain values for JSON.

    extras: {name: {"installed": bool, "missing": packages, "install": pip command}}; problems: what keeps semid from working
    or makes it slow, each with its fix. Imports torch.
    """
    import torch

    from semid.encoders.text import find_minilm
    from semid.run import machine

    versions: dict[str, str | None] = {"semid": _version("semid"), "python": platform.python_version()}
    extras: dict[str, dict] = {}
    problems = []
    for requirement in requires("semid") or []:
        found = _REQUIREMENT.match(requirement)
        assert found, requirement
        name, extra = found[1], found[2]
        if extra is None:
            versions[name] = _version(name)
            if versions[name] is None:
                problems.append(f"{name} is not installed: pip install semid")
        elif _version(name) is None:
            extras.setdefault(extra, {"missing": []})["missing"].append(name)
        else:
            extras.setdefault(extra, {"missing": []})
    for extra, state in extras.items():
        state["installed"] = not state["missing"]
        state["install"] = f"pip install 'semid[{extra}]'"
    found = machine() | {"memory_gb": _memory(), "bf16_gpu": torch.cuda.is_bf16_supported() if torch.cuda.is_available() else None,
                         "minilm": find_minilm() is not None}
    kept = folders()
    if not kept["cache"]["writable"]:
        problems.append(f"{kept['cache']['path']} cannot be written, so vectors are computed anew each time: "
                        "set SEMID_CACHE to a folder of yours")
    if not kept["compiled"]["writable"]:
        problems.append(f"{kept['compiled']['path']} cannot be written, so decoding is compiled anew in each process: "
                        "set NUMBA_CACHE_DIR to a folder of yours")
    if kept["disk_free_gb"] < 2:
        problems.append(f"{kept['disk_free_gb']} GB are free in {Path.cwd()}: a run folder needs up to 2")
    return {"versions": versions, "extras": extras, "machine": found, "folders": kept, "problems": problems}


def folders() -> dict:
    """Return where semid keeps things, how much they take and whether they can be written."""
    cache = cache_folder()
    compiled = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "decoding" / "__pycache__")
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    return {"cache": {"path": str(cache), "megabytes": round(size / 1e6, 1), "writable": _writable(cache)},
            "compiled": {"path": str(compiled), "writable": _writable(compiled)},
            "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    """Whether files could be made in a folder, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None
