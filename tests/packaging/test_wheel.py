"""What users install is what stands here: every file, under `perdure.*` and nowhere else."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORK = ("entities", "cluster", "api")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("wheel")]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has or would take, so that a build neither sees nor leaves anything in the checkout."""
    copy = tmp_path_factory.mktemp("sources")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():  # not deleted since the last commit
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: the sdist from the sources, the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, sources, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_framework_and_no_other(sources: Path, wheel: Path) -> None:
    expected = {
        f"perdure/{file.relative_to(sources).as_posix()}"
        for name in FRAMEWORK
        for file in (sources / name).rglob("*")
        if file.is_file() and file.suffix != ".md"
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {f"perdure/{name}/py.typed" for name in FRAMEWORK} <= held


def test_installed_wheel_is_importable_under_perdure_only(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(tmp_path / "venv")}))
    python = scripts / "python"
    install = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", wheel)
    run(sys.executable, "-m", "pip", "--python", python, "install", *install, cwd=tmp_path)
    # The dependencies come from this environment: a .pth line adds a folder without running the .pth files in it,
    # hence without the editable install.
    purelib = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "venv")}))
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    program = """if True:
        import importlib, importlib.util
        for name in ("entities", "cluster", "api"):
            print(importlib.import_module(f"perdure.{name}").__file__)
            assert importlib.util.find_spec(name) is None, name
    """
    files = run(python, "-I", "-W", "error", "-c", program, cwd=tmp_path).split()
    assert files == [str(purelib / "perdure" / name / "__init__.py") for name in FRAMEWORK]
