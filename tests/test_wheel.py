"""The wheel, built and installed for real."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_a_wheel_installed_in_an_empty_folder_works(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)], check=True
    )
    [wheel] = tmp_path.glob("autofash-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        f"autofash/search_spaces/{name}.toml" for name in ("all", "cnn", "mlp", "resnet", "starters", "baselines")
    } <= set(names)
    assert "autofash/py.typed" in names and not [name for name in names if name.startswith("tests/")]

    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "autofash", "spaces"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "resnet" in done.stdout, done.stderr
    where = "import autofash; print(autofash.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert str(tmp_path / "site") in found.stdout
