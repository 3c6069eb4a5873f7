"""The examples of the README, as their readers run them."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from support import ADMIN, Quickstart

FOLDER = Path(__file__).parents[1]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_example_is_the_one_that_is_checked_and_prints_what_the_readme_says() -> None:
    quickstart = Quickstart()
    try:
        assert blocks("python")[0] == (FOLDER / "examples/limits.py").read_text()
        env = {**os.environ, "QUOTA_URL": quickstart.url, "QUOTA_TOKEN": ADMIN}
        ran = subprocess.run([sys.executable, "examples/limits.py"], cwd=FOLDER, env=env, capture_output=True, text=True)
        assert (ran.stdout, ran.stderr) == (blocks("text")[0], "")
    finally:
        quickstart.stop()


def test_the_async_example(quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "example.py"
    file.write_text(blocks("python")[1])
    main = runpy.run_path(str(file))["main"]
    anyio.run(main, quickstart.url, ADMIN)
    assert capsys.readouterr().out.splitlines()[0].isdigit()
