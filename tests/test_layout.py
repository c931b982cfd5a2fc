"""The architecture as the design draws it, read from the source: who may import whom, how long, how typed."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import networkx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "certtrain"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

# The rooms of certtrain from the ground up: a room imports itself and those before it.
FLOORS = (
    {"_version", "errors", "escape", "session_keys"},
    {
        "allocator",
        "collective",
        "threat",
        "radii",
        "scale_request",
        "features",
        "files",
        "environment",
        "evaluation",
        "invariance",
        "schedules",
        "randomness",
        "claim",
        "run_yaml",
        "work",
        "signals",
        "signatures",
    },
    {"locks", "kernels"},
    {"run_folder"},
    {
        "bounds",
        "smoothing",
        "models",
        "data",
        "attacks",
        "certificates",
        "falsification",
        "runs",
    },
    {"certifiers", "methods", "sweeps", "export"},
    {"reporting"},
    {"certification", "parts", "callbacks", "checkpoints", "importing", "audit", "testing"},
    {"ranks", "trainer_settings"},
    {"training"},
    {"kinds"},
    {"config", "api"},
    {"commands"},
    {"cli"},
    {"__init__", "__main__"},  # __init__ is the facade: `certtrain.load`
)
LIBRARY = {
    "radii",
    "threat",
    "features",
    "schedules",
    "bounds",
    "smoothing",
    "attacks",
    "kernels",
    "randomness",
    "models",
    "claim",
    "certificates",
    "collective",
}
KNOW_HYDRA = {"cli", "commands", "config"}
NO_LIGHTNING = LIBRARY | {
    "certifiers",
    "certification",
    "parts",
    "audit",
    "runs",
    "reporting",
    "sweeps",
    "environment",
    "files",
    "errors",
    "cli",
}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name(path):
    return str(path.relative_to(ROOT))


def imports(tree, *, module_level=False):
    """The dotted names that a module imports: `certtrain.threat`, `torch`; all, or those run on import."""
    nodes = tree.body if module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _exists(room_name):
    return (PACKAGE / room_name / "__init__.py").exists() or (PACKAGE / f"{room_name}.py").exists()


def tops(tree, **kind):
    return {dotted.split(".")[0] for dotted in imports(tree, **kind)}


def floor(room_name):
    return next((i for i, rooms in enumerate(FLOORS) if room_name in rooms), None)


def test_every_room_has_its_floor():
    assert sorted({room(path) for path in MODULES if floor(room(path)) is None}) == []


def test_lower_rooms_never_import_higher_ones():
    wrong = [
        f"{name(path)} imports {dotted}"
        for path, tree in TREES.items()
        for dotted in imports(tree)
        if dotted.startswith("certtrain.")
        and (above := floor(dotted.split(".")[1])) is not None
        and above > floor(room(path))
    ]
    assert wrong == []


def imported_modules(tree, modules):
    """The modules of certtrain that a module imports, anywhere in it, but for what only type checkers read."""
    ignored = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            ignored |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in ignored:
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in ignored:
            named = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (found for name in named if (found := name if name in modules else node.module) in modules)


def test_no_modules_import_each_other():
    """Circles inside a floor too, also through the package's front: `import certtrain` in a lower room."""
    dotted = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES}
    modules = {name.removesuffix(".__init__"): path for path, name in dotted.items()}
    graph = networkx.DiGraph()
    for module, path in modules.items():
        graph.add_edges_from((module, other) for other in imported_modules(TREES[path], modules) if other != module)
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


def test_the_library_is_plain_and_only_the_top_knows_hydra():
    hydra = [name(p) for p, t in TREES.items() if {"hydra", "omegaconf"} & tops(t) and room(p) not in KNOW_HYDRA]
    lightning = [
        name(p) for p, t in TREES.items() if {"lightning", "pytorch_lightning"} & tops(t) and room(p) in NO_LIGHTNING
    ]
    assert hydra == []
    assert lightning == []


def test_the_library_imports_neither_lightning_nor_hydra():
    """Also not through a package's __init__."""
    rooms = ", ".join(f"certtrain.{name}" for name in sorted(LIBRARY) if _exists(name))
    code = f"import sys, {rooms}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not {"lightning", "hydra", "auto_LiRPA", "wandb"} & set(done.stdout.split())


def test_one_lightning_namespace():
    """Mixed with `lightning`, classes of `pytorch_lightning` fail isinstance."""
    assert [name(p) for p, t in TREES.items() if {"pytorch_lightning", "lightning_fabric"} & tops(t)] == []


def test_optional_and_heavy_packages_are_imported_late():
    wrong = [name(p) for p, t in TREES.items() if {"wandb", "auto_LiRPA"} & tops(t, module_level=True)]
    assert wrong == []
    early = {"torch", "lightning", "torchvision", "torchmetrics", "hydra", "omegaconf", "matplotlib", "scipy"}
    quick = [PACKAGE / f"{stem}.py" for stem in ("__init__", "cli", "config", "errors", "files", "runs", "threat/linf")]
    assert [name(p) for p in quick if early & tops(TREES[p], module_level=True)] == []


def test_files_are_small():
    lengths = {
        name(p): len(p.read_text(encoding="utf-8").splitlines()) for p in (*MODULES, *ROOT.glob("tests/**/*.py"))
    }
    assert {path: count for path, count in lengths.items() if count > 450} == {}


def test_every_module_says_what_it_is():
    empty = [p for p in MODULES if p.name == "__init__.py" and not TREES[p].body]
    assert [name(p) for p in MODULES if p not in empty and not ast.get_docstring(TREES[p])] == []


def functions(tree):
    return (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_every_signature_is_typed():
    untyped = []
    for path, tree in TREES.items():
        for function in functions(tree):
            arguments = function.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += filter(None, (arguments.vararg, arguments.kwarg))
            bare = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
            if function.returns is None or bare:
                untyped.append(f"{name(path)}:{function.lineno} {function.name}({', '.join(bare)})")
    assert untyped == []


def test_groups_are_few_and_two_levels_deep():
    folders = [p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*") if p.is_dir()]
    assert [str(p) for p in folders if len(p.parts) > 2] == []
    assert len([p for p in folders if len(p.parts) == 1 and str(p) not in ("tuned", "hydra")]) <= 11


def test_tests_mirror_the_package():
    """tests/ROOM/test_X.py tests certtrain/ROOM/X.py; folders without a counterpart hold what spans rooms."""
    spanning = {"soundness", "open_house", "packaging", "commands", "experiments", "benchmarks"}
    strange = [
        name(p)
        for p in (ROOT / "tests").iterdir()
        if p.is_dir() and p.name not in spanning and not p.name.startswith("__") and not (PACKAGE / p.name).is_dir()
    ]
    assert strange == []
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    [version] = re.findall(r'^__version__ = "(.*)"', (PACKAGE / "_version.py").read_text(), re.M)
    assert project["version"] == citation["version"] == version
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_ci_runs_the_command_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if not readme.strip():
        pytest.skip("there is no README yet")
    script = (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"^uv run pytest.*$", script, re.M)
    assert commands == ["uv run pytest"]
    assert re.search(r"^\s*(?:\$ )?pip install uv && uv run pytest$", readme, re.M)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
