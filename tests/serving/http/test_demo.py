"""`semid demo --serve`, as somebody new tries it: trained, compared, then open in the browser until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

HOME = Path(__file__).parents[3]
QUICK = """
import sys
from semid import cli
cli.DEMO = {"item_knn": {"decay": [0.5], "backward": [0.5], "norm": [0.5]}, "ease": {"regularisation": [400.0]},
            "sasrec": {"epochs": 1, "width": 16}, "semid:fusion": {"epochs": 1, "text": "hashed", "width": 32, "layers": 1}}
sys.exit(cli.main(["demo", "--serve", "--quiet", "--out", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_in_a_page_with_both_runs_until_ctrl_c(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", QUICK, str(tmp_path / "demo")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env={**os.environ, "PYTHONPATH": str(HOME)})
    try:
        assert process.stdout is not None
        found = None
        for line in process.stdout:
            if (found := re.search(r"the page: (http://127\.0\.0\.1:\d+);", line)) is not None:
                break
        assert found is not None, process.communicate()[1]
        with httpx.Client(base_url=found[1], timeout=60) as client:
            page = client.get("/")
            assert page.status_code == 200
            films = [each["item_id"] for each in client.post("/recommend", json={"history": [], "k": 2}).json()["items"]]
            assert len(films) == 2
            page = client.get("/", params=[("h", film) for film in films]).text
            assert "semid:fusion" in page
            assert "sasrec" in page
            assert page.count('id="add-1-') == page.count('id="add-2-') > 0  # cards of both lists
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()
