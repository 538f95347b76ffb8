"""What is built is whole: wheel and sdist hold the same modules, and the wheel works outside of a checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
LINKED = ("search", "train", "conf")

COMPOSED = """
import sys
from pathlib import Path
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
import ofa, ofa.conf
from ofa.conf.program.building import resolve

def targets(node):
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for value in inner for target in targets(value)]

folder = Path(ofa.conf.__file__).parent
chosen = {str(name) for entry in OmegaConf.load(folder / "config.yaml").defaults if entry != "_self_" for name in entry}
options = [
    f"{'' if path.parent.name in chosen else '+'}{path.parent.name}={path.stem}" for path in folder.glob("*/*.yaml")
]
with initialize_config_module("ofa.conf", version_base="1.3"):
    for config, override in [("config", []), ("tune", []), *(("config", [option]) for option in options)]:
        for target in targets(OmegaConf.to_container(compose(config, overrides=override))):
            resolve(target, str(override))
print(len(options), ofa.__file__, [path for path in sys.path if path == sys.argv[1]])
"""


def called(*command: str | Path, folder: Path, **environment: str) -> str:
    """What a command prints in a folder, without the checkout on any path."""
    place = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    done = subprocess.run([*map(str, command)], cwd=folder, env=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"[-4000:]
    return done.stdout


def sources() -> set[str]:
    """The files of the installed packages, where a wheel has them."""
    folders = {"ofa": "ofa", **{name: f"ofa/{name}" for name in LINKED}}
    return {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".md") and path.resolve().is_relative_to(ROOT / folder)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and sdist of this tree, and the wheel that the sdist gives."""
    folder = tmp_path_factory.mktemp("built")
    called(sys.executable, "-m", "pip", "install", "-q", "--target", folder / "tools", "hatchling>=1.26", folder=folder)
    tools = {"PYTHONPATH": str(folder / "tools")}
    called(sys.executable, "-m", "hatchling", "build", "-d", folder / "dist", folder=ROOT, **tools)
    (wheel,), (sdist,) = (list((folder / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    called(*pip, "-w", folder / "again", sdist, folder=folder, **tools)
    (again,) = (folder / "again").glob("*.whl")
    return {"wheel": wheel, "sdist": sdist, "again": again}


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel; everything else is this environment's."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    called(programs / "python", "-m", "pip", "install", "-q", "--no-deps", built["wheel"], folder=folder)
    own = called(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    Path(own.strip(), "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    return programs


def test_wheel_and_sdist_hold_every_module_once(built: dict[str, Path]) -> None:
    for name in "wheel", "again":
        files = zipfile.ZipFile(built[name]).namelist()
        assert len(files) == len(set(files))
        assert {file for file in files if ".dist-info/" not in file} == sources()
    with tarfile.open(built["sdist"]) as archive:
        files = [member.name.partition("/")[2] for member in archive if member.isfile()]
        assert len(files) == len(set(files)) and not [member for member in archive if member.issym()]
    inside = {file.removeprefix("ofa/") if file.split("/")[1] in LINKED else file for file in sources()}
    assert inside | {"README.md", "LICENSE", "pyproject.toml", "tests/conftest.py"} <= set(files)
    assert not [file for file in files if file.startswith(tuple(f"ofa/{name}/" for name in LINKED))]


def test_the_installed_program_says_what_it_takes(installed: Path, tmp_path: Path) -> None:
    assert "search=evolution" in called(installed / "ofa", "--help", folder=tmp_path)
    assert "tuning.trials" in called(installed / "ofa-tune", "--help", folder=tmp_path)


def test_every_installed_configuration_composes(installed: Path, tmp_path: Path) -> None:
    number, file, checkout = called(installed / "python", "-c", COMPOSED, str(ROOT), folder=tmp_path).split()
    assert int(number) == len(list((ROOT / "conf").glob("*/*.yaml"))) > 30
    assert Path(file).is_relative_to(installed.parent) and checkout == "[]"


def test_the_readmes_lines_run_installed(installed: Path, tmp_path: Path) -> None:
    example, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(f"{example}\nprint(ofa.__file__)\n")
    file = called(installed / "python", "example.py", folder=tmp_path).splitlines()[-1]
    assert Path(file).is_relative_to(installed.parent)
