"""The law of graphs: what is written down for one batch gives for any other what the layers give themselves."""

import pytest
import torch
from cases import GROUPS, SHAPES, point, random_factors, rank_ladder, tiny_bert, token_batch
from torch import Tensor, nn

import lobert
from lobert.compression.compress import compress_model
from lobert.compression.plan import make_plan
from lobert.factorizations import FACTORIZATIONS, Shape
from lobert.layers.factored import FactoredLinear
from lobert.layers.group import FactorGroup
from lobert.layers.sharing import SharedInput
from lobert.layers.ways import EVALUATIONS, Evaluation

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
STEP = 3  # place in the rank ladder
PRODUCTS = {torch.ops.aten.linear.default, torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


class Slices(nn.Module):
    """Each role in the last layer, and the first role again, as their outputs side by side."""

    def __init__(self, name: str, stack: str, shape: Shape, evaluation: Evaluation) -> None:
        super().__init__()
        rank = rank_ladder(name, shape)[STEP]
        self.group = FactorGroup(FACTORIZATIONS[name], stack, shape, rank, evaluation).double()
        self.group.set_factors(random_factors(name, stack, shape, rank))
        roles = [(role,) for role in range(shape[0])] if "s" in stack else [()]
        layer = (shape[-3] - 1,) if "l" in stack else ()
        shared = SharedInput(len(roles))
        indices = [(*role, *layer) for role in (*roles, roles[0])]
        bias = torch.randn(shape[-2], dtype=torch.float64)
        self.layers = nn.ModuleList(FactoredLinear(self.group, index, bias, shared) for index in indices)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], -1)


class Classifier(nn.Module):
    """A student as a function of its inputs by position, to its logits."""

    def __init__(self, name: str, layers: int = 2) -> None:
        super().__init__()
        self.model = tiny_bert(num_hidden_layers=layers)
        compress_model(self.model, make_plan(self.model, point(name)))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(INPUTS, inputs, strict=True))).logits


def batch(examples: int, length: int) -> tuple[Tensor, ...]:
    inputs = token_batch(examples, length)
    return tuple(inputs[name] for name in INPUTS)


def exported(model: Classifier) -> torch.export.ExportedProgram:
    sizes = {0: torch.export.Dim("examples"), 1: torch.export.Dim("tokens", max=64)}
    return torch.export.export(model.eval(), batch(2, 7), dynamic_shapes=((sizes,) * len(INPUTS),))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of shapes of factors, which stay
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), [group for group in GROUPS if group[2] == SHAPES[group[1]][0]])
def test_traced_slices_are_the_slices(name: str, stack: str, shape: Shape, evaluation: Evaluation) -> None:
    slices = Slices(name, stack, shape, evaluation)
    one, other = (torch.randn(*sizes, shape[-1], dtype=torch.float64) for sizes in ((2, 3), (5, 4)))
    graph = torch.jit.trace(slices, one, check_trace=False)
    torch.testing.assert_close(graph(other), slices(other))
    with torch.no_grad():
        torch.testing.assert_close(graph(other), slices(other))


@pytest.mark.parametrize("name", ["tucker_4d", "all_tucker", "embeddings_svd", "all_narrow_svd"])
def test_an_exported_student_is_the_student(name: str) -> None:
    model = Classifier(name)
    with torch.no_grad():
        model(*batch(4, 6))  # and keeps what it may
        graph = exported(model).module()
        for other in (batch(2, 7), batch(3, 12)):
            torch.testing.assert_close(graph(*other), model(*other))


@pytest.mark.parametrize("name", ["falcon_layer", "embeddings_svd", "all_narrow_svd"])
def test_a_compiled_student_is_one_graph_with_its_gradients(name: str) -> None:
    torch.compiler.reset()  # of other students, which go through the same code
    model = Classifier(name, layers=1).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for other in (batch(2, 7), batch(3, 12)):
        found = []
        for run in (compiled, model):
            model.zero_grad()
            logits = run(*other)
            logits.square().sum().backward()
            found.append([logits, *(p.grad for p in model.parameters() if p.grad is not None)])
        assert len(found[0]) > 1
        torch.testing.assert_close(*found)


def test_a_student_with_whole_factors_puts_nothing_together() -> None:
    model = Classifier("all_narrow_svd")
    lobert.fold(model)
    expected = model.eval()(*batch(3, 12))
    assert any("index_copy" in node.name for node in exported(model).graph.nodes)
    lobert.unfold(model)
    program = exported(model)
    assert not any("index_copy" in node.name for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*batch(3, 12)), expected, rtol=1e-4, atol=1e-4)


def test_what_is_shared_is_in_the_graph_once_and_leaves_nothing() -> None:
    model = Classifier("falcon_layer")
    program = exported(model)  # with gradients
    layer = 1 + 3  # queries, keys and values together, the attention's output, and the two of the network
    assert sum(node.target in PRODUCTS for node in program.graph.nodes) == 2 * layer + 2  # pooler and classifier
    model(*batch(2, 7)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.model.factors.parameters())
