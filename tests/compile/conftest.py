"""What the tests of compilation have in common."""

import shutil
from pathlib import Path

import pytest

from nbnorm.compile import kernels


@pytest.fixture
def package_of(tmp_path):
    """Write a package nbnorm of `nbnorm.compile` and other modules, and return the folder it is in."""

    def write(**modules):
        folder = tmp_path / "site" / "nbnorm"
        folder.mkdir(parents=True)
        shutil.copytree(Path(kernels.__file__).parent, folder / "compile")
        (folder / "__init__.py").write_text("")
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
        return folder.parent

    return write
