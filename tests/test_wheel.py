"""What the wheel holds: every module, the bundled model, and nothing that is not for users."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from moee_index.model.nf4.native import library

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    # In a copy: setuptools leaves a build folder in the tree, whose old files get into new wheels.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in ("moee_index", "bench"):
        shutil.copytree(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_every_module_and_the_model_are_in_the_wheel(names: list[str]) -> None:
    for folder, package in (("moee_index", "moee_index"), ("bench", "moee_index/bench")):
        for module in (ROOT / folder).rglob("*.py"):
            inside = module.relative_to(ROOT / folder)
            if inside.parts[0] not in ("results", "scripts"):
                assert f"{package}/{inside.as_posix()}" in names
    for file in ("config.json", "model.safetensors", "tokenizer.json", "moee_index.json"):
        assert f"moee_index/model/tiny/{file}" in names
    for file in ("README.md", "NOTICE"):
        assert f"moee_index/model/tiny/{file}" in names
    assert "moee_index/py.typed" in names
    for file in (ROOT / "moee_index" / "serve" / "page").iterdir():
        if file.is_file():
            assert f"moee_index/serve/page/{file.name}" in names
    for file in ("report.j2", "analysis.j2", "report.md.j2", "report.html.j2"):
        assert f"moee_index/bench/report/{file}" in names


@pytest.mark.skipif(library.library() is None, reason="installed without a C++ compiler")
@pytest.mark.parametrize("compiled", ["model/nf4/native/_kernels", "index/search/native/_bounds"])
def test_what_is_compiled_is_in_the_wheel_for_every_python(names: list[str], compiled: str) -> None:
    assert [name for name in names if re.search(rf"{compiled}\.abi3\.(so|pyd)$", name)]


def test_nothing_else_is_in_the_wheel(names: list[str]) -> None:
    allowed = ("moee_index/", "moee_index-")
    assert [name for name in names if not name.startswith(allowed)] == []
    for name in names:
        assert not name.startswith(("moee_index/bench/results", "moee_index/bench/scripts"))
        assert not re.search(r"(^|/)(tests?/|test_|conftest)", name)
        assert not name.endswith((".cpp", ".h", ".inl"))
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/moee_index/model/tiny/NOTICE") for name in names)
