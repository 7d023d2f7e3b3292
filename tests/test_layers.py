"""The package's layers: a part imports only parts above it, and the upper half stays light."""

import ast
import dataclasses
from pathlib import Path

import t5jax
from t5jax.model.contract import ModelConfig
from t5jax.model.family import families

# From the bottom up: each may import what stands before it, and itself.
ORDER = [
    "starting", "text_files", "knobs", "paths", "schema", "yaml_files", "standard_streams",
    "user_code", "run_folder", "host", "compiled",
    "ops", "model", "config", "batch", "sharding", "vocabulary", "decoding", "formats", "sizes",
    "engine", "loaded", "text2text", "loading", "bulk", "config_files",
    "tasks", "data", "evaluation", "evaluate", "training", "cli",
]  # fmt: skip
LIGHT = ORDER[: ORDER.index("tasks")]
HEAVY = {"tensorflow", "seqio", "tensorflow_datasets", "torch"}
ROOT = Path(t5jax.__file__).parent


def imports(file: Path) -> set[str]:
    """Modules that a file names in its import statements, wherever they stand."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


FAMILIES = {"t5", "bart"}
FILES = [f for f in ROOT.rglob("*.py") if f != ROOT / "__init__.py"]


def test_parts_import_only_parts_above_them():
    assert {part(f) for f in FILES} == set(ORDER)
    for file in FILES:
        for name in imports(file):
            pieces = name.split(".")
            if pieces[0] == "t5jax" and len(pieces) > 1 and pieces[1] in ORDER:
                assert ORDER.index(pieces[1]) <= ORDER.index(part(file)), f"{file} imports {name}"


def test_the_upper_half_names_no_heavy_library():
    for file in FILES:
        if part(file) in LIGHT:
            assert not HEAVY & {name.split(".")[0] for name in imports(file)}, file


def test_nothing_outside_its_folder_names_a_family():
    """Only the registration does, and the package's own names."""
    for file in FILES:
        if file.parent.name in FAMILIES and file.parent.parent == ROOT / "model":
            continue
        named = {name.split(".")[2] for name in imports(file) if name.startswith("t5jax.model.")}
        allowed = FAMILIES if file == ROOT / "model" / "__init__.py" else set()
        assert not (named & FAMILIES) - allowed, file


def test_code_outside_its_folder_reads_no_field_or_parameter_of_a_family():
    """Fields of configurations that no contract has, and modules, appear in no code elsewhere."""
    known = {name for name in dir(ModelConfig) if not name.startswith("_")}
    rooms = [ROOT / "model" / family for family in FAMILIES]
    fields, modules = set(), set()
    for family in families():
        fields |= {field.name for field in dataclasses.fields(family.config)} - known
        modules |= {row.split("/")[-2] for row in family.layout(family.config())}
    # The parts of a layer that the serving networks of all families have.
    modules -= {"norm", "head", "mlp"}
    skeleton = {"self_attention", "encoder_decoder_attention"}
    for file in FILES:
        if part(file) == "tasks" or any(file.is_relative_to(room) for room in rooms):
            continue
        names = modules - skeleton if file == ROOT / "model" / "skeleton.py" else modules
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in fields, f"{file}:{node.lineno} {node.attr}"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in fields | names, f"{file}:{node.lineno} {node.value}"


def too_long(file: Path) -> list[str]:
    """What of a file has more lines than it may."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    spans = [(str(file.relative_to(ROOT)), len(text.splitlines()), 400)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert node.end_lineno
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            spans.append((f"{file.relative_to(ROOT)}: {node.name}", lines, 60))
    return [f"{name} has {lines} lines" for name, lines, most in spans if lines > most]


def test_no_file_or_function_is_long():
    """At most 400 lines a file, and 60 a function behind its docstring."""
    assert not [line for file in sorted(FILES) for line in too_long(file)]
