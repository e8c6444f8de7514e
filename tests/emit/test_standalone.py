"""Files that need the framework alone: they learn what the package learns, and are pasted from what it imports."""

from __future__ import annotations

import ast
import copy
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emit import standalone_runner as runner
from torch import nn

import ruledsl
import ruledsl_torch
from ruledsl.emit import standalone
from ruledsl_torch.emission import BACKEND
from ruledsl_torch.views import PASTED

RULES = [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the standalone file of every rule, and the states that their networks reach by themselves."""
    folder = tmp_path_factory.mktemp("standalone")
    for name in RULES:
        (folder / f"{name}.py").write_text(ruledsl.load(name).compile("torch", standalone=True).source)
    done = subprocess.run(
        [sys.executable, "-I", runner.__file__, str(folder)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_by_its_file_alone_what_it_learns_here(name: str, files: Path) -> None:
    alone = torch.load(files / "states.pt")[name]
    x, _ = runner.batch(torch)
    net = ruledsl_torch.convert(
        runner.network(torch),
        name,
        example=x,
        activations=runner.activations(torch),
        generator=torch.Generator().manual_seed(2),
    )
    here = runner.trained(torch, net, ruledsl_torch.advance, ruledsl_torch.observe, ruledsl_torch.optimizers)
    assert {key.rpartition(".")[2] for key in here} == {key.rpartition(".")[2] for key in alone}
    for key, value in alone.items():
        assert torch.allclose(here[key], value, atol=1e-6), key


@pytest.mark.parametrize("name", RULES)
def test_what_is_pasted_is_what_is_imported(name: str, files: Path) -> None:
    """Every pasted definition is that of the project's file, member by member, but for the length of a docstring."""
    pasted = 0
    module = ast.parse(ruledsl.load(name).compile("torch").source)
    own = {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.parse((files / f"{name}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in own | {"convert"}:
            found = origins(node.name)
            if not found and node.name == "advance":
                continue
            kept = {ast.dump(member) for member in without_docstring(node)}
            # Two of the project's files may each have a definition of this name, of which one is pasted.
            assert any(kept <= {ast.dump(member) for member in without_docstring(one)} for one in found), node.name
            pasted += 1
    assert pasted >= 4


def origins(name: str) -> list[ast.AST]:
    folders = [Path(ruledsl_torch.__file__).parent, Path(ruledsl.__file__).parent]
    files = [
        *folders[0].glob("*.py"),
        folders[1] / "assembly.py",
        folders[1] / "errors.py",
        folders[1] / "ir/phases.py",
    ]
    return [definitions[name] for file in files if name in (definitions := defined(file))]


def defined(file: Path) -> dict[str, ast.AST]:
    nodes = ast.parse(file.read_text()).body
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def without_docstring(node: ast.AST) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node) is not None else node.body


def test_feedback_alignment_is_a_file_that_one_reads_in_minutes() -> None:
    source = ruledsl.load("feedback_alignment").compile("torch", standalone=True).source
    assert source.count("\n") < 345
    assert "net = nn.Sequential(Linear(784, 256)" in "".join(source.splitlines(keepends=True)[:25])
    assert "ruledsl_torch" not in source and "import ruledsl" not in source


@pytest.mark.parametrize(
    ("name", "lines"),
    [("kolen_pollack", 610), ("drtp", 1135), ("direct_feedback_alignment", 1135), ("weight_mirror", 1330)],
)
def test_no_file_grows_by_what_only_the_package_needs(name: str, lines: int, files: Path) -> None:
    assert (files / f"{name}.py").read_text().count("\n") < lines


def test_a_loop_without_an_optimizer_completes_what_counts_once(files: Path) -> None:
    module = runpy.run_path(str(files / "kolen_pollack.py"))
    x, labels = runner.batch(torch)
    nets = [module["convert"](runner.network(torch), decay=0.5, generator=torch.Generator().manual_seed(2))]
    nets.append(copy.deepcopy(nets[0]))
    for net in nets:
        nn.functional.cross_entropy(net(x), labels).backward()
    torch.optim.SGD(nets[0].parameters(), lr=0.1).step()
    module["complete"](nets[1])
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        moved = other if other.grad is None else other - 0.1 * other.grad  # nobody is sent anything by the first B
        assert torch.allclose(one, moved, atol=1e-7)


def test_two_definitions_of_one_name_cannot_stand_in_one_file() -> None:
    one, other = "from ruledsl.assembly import Place\n", "from ruledsl.architectures.architecture import Place\n"
    assert "class Place" in standalone.paste_imports(f'"""A."""\n\n{one}\nx = Place\n')
    with pytest.raises(AssertionError, match="Place is defined in"):
        standalone.paste_imports(f'"""A."""\n\n{one}{other}\nx = Place\n')


@pytest.mark.parametrize("name", RULES)
def test_no_rule_is_called_like_anything_else_in_its_file(name: str, files: Path) -> None:
    own = defined_in(ruledsl.load(name).compile("torch").source)
    standing = defined_in((files / f"{name}.py").read_text()) - own
    classes = {each for each in standing if each[0].isupper() and "_" not in each and not each.isupper()}
    assert classes <= PASTED | BACKEND.reserved | BACKEND.imports.keys()


def defined_in(source: str) -> set[str]:
    nodes = ast.parse(source).body
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    stored = [name for node in nodes for name in ast.walk(node) if isinstance(node, ast.Assign)]
    variables = {each.id for each in stored if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return imported | variables | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("name", ["trace", "tensor", "traced", "dense", "optimizers", "r"])
def test_a_rule_or_value_may_be_called_like_what_is_pasted(name: str, tmp_path: Path) -> None:
    text = f"""
    rule {name} {{
      weight shapes : post -> pre ~ normal(0, 1)
      let observe = outer(delta, x)
      feedback send = shapes @ delta
      grad W = observe + 0.1 * W
      grad shapes = observe.T
      phase q {{ drive x = normal(0, 1)  shapes <- 0.9 * shapes }}
      schedule {{ each step : task, q }}
    }}
    """
    path = tmp_path / "alone.py"
    path.write_text(ruledsl.parse(text).compile("torch", standalone=True).source)
    module = runpy.run_path(str(path))
    x, _ = runner.batch(torch)
    net = module["convert"](runner.network(torch), example=x, generator=torch.Generator().manual_seed(2))
    alone = runner.trained(torch, net, module["advance"], module["observe"], module.get("optimizers"))
    generator = torch.Generator().manual_seed(2)
    net = ruledsl_torch.convert(runner.network(torch), ruledsl.parse(text), example=x, generator=generator)
    here = runner.trained(torch, net, ruledsl_torch.advance, ruledsl_torch.observe, ruledsl_torch.optimizers)
    assert all(torch.allclose(here[key], value, atol=1e-6) for key, value in alone.items())


def test_a_local_value_called_like_what_is_pasted_brings_nothing_along() -> None:
    text = "rule r { let NAME = outer(delta, x)  feedback send = 0.1 * x  grad W = NAME + W  grad b = total(0.5 * u) }"
    for standalone_too in (False, True):
        sources = {
            name: ruledsl.parse(text.replace("NAME", name)).compile("torch", standalone=standalone_too).source
            for name in ("observe", "a")
        }
        assert sources["observe"].count("\n") == sources["a"].count("\n")


@pytest.mark.parametrize("name", ["kolen_pollack", "weight_mirror"])
def test_a_file_says_what_it_cannot_convert(name: str, files: Path) -> None:
    module = runpy.run_path(str(files / f"{name}.py"))
    x, given = torch.randn(2, 2, 6, 6), {}
    if "NetworkState" in module:
        given["example"] = x
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 3, 2, padding="same"),
        nn.Flatten(),
        nn.Linear(108, 3),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    )
    expected = net(x)
    with pytest.raises(TypeError, match=f"{name} has no parameter dekay"):
        module["convert"](net, dekay=0.1, **given)
    with pytest.warns(UserWarning, match="not converted, and learning by autograd from what reaches them: 0, 1, 4"):
        module["convert"](net, **given)
    assert [type(layer) for layer in net[:4]] == [nn.Conv2d, nn.Conv2d, nn.Flatten, module["Linear"]]
    assert torch.allclose(net(x), expected, atol=1e-6)
    with pytest.raises(ValueError, match="Sequential has no Linear or Conv2d to convert"):
        module["convert"](nn.Sequential(net[0], nn.Flatten()), **given)
    for padding in ({"padding": 1, "padding_mode": "reflect"}, {"padding": "same"}):
        with pytest.raises(ValueError, match="padded with zeros"):
            module["Conv2d"](2, 3, 2, **padding)


def test_an_optimizer_that_torch_has_not_is_asked_for(tmp_path: Path) -> None:
    text = """
    rule r {
      weight B : post -> pre ~ normal(0, 1)
      feedback send = B @ delta
      grad B = outer(x, delta) by one
      grad W = 0.1 * W by two
      grad W = outer(delta, x)
      optimizer one = manhattan_1(lr = 0.001)
      optimizer two = sgd(lr = 0.1)
    }
    """
    path = tmp_path / "alone.py"
    path.write_text(ruledsl.parse(text).compile("torch", standalone=True).source)
    assert "import ruledsl" not in path.read_text() and "one=lambda" in path.read_text()
    module = runpy.run_path(str(path))
    net = module["convert"](runner.network(torch), example=runner.batch(torch)[0])
    task = {"task": lambda parameters: torch.optim.SGD(parameters, lr=0.1)}
    with pytest.raises(module["UserError"], match="which optimizer is `one`"):
        module["optimizers"](net, **task)
    module["optimizers"](net, **task, one=lambda parameters: torch.optim.Rprop(parameters, lr=0.1))


def test_a_rule_without_phases_is_given_activations(tmp_path: Path) -> None:
    text = "rule r { fixed B : post -> pre ~ normal(0, 1)  feedback send = B @ delta  grad W = outer(delta * y, x) }"
    path = tmp_path / "alone.py"
    path.write_text(ruledsl.parse(text).compile("torch", standalone=True).source)
    module = runpy.run_path(str(path))
    x, labels = runner.batch(torch)
    net = module["convert"](runner.network(torch), example=x, activations=runner.activations(torch))
    nn.functional.cross_entropy(net(x), labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
