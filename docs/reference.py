"""Builds the reference of every module from its docstrings: `uv run --with pdoc python docs/reference.py [FOLDER]`."""

import pkgutil
import sys
from pathlib import Path

import pdoc

import certtrain

names = [
    module.name for module in pkgutil.walk_packages(certtrain.__path__, "certtrain.") if "__main__" not in module.name
]
folder = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
pdoc.pdoc("certtrain", *names, output_directory=folder)
print(f"{len(names) + 1} modules: {folder / 'index.html'}")
