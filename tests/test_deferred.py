"""A quick start: what a query does not load, and that nobody can tell afterwards that transformers
was imported without it."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden_cli import query

from moee_index import deferred
from moee_index.deferred import deferring

# None of these is needed to answer a query with the bundled model; some take half a second each.
NOT_LOADED = (
    *("scipy", "sympy", "sklearn", "pandas", "matplotlib", "datasets", "torch._dynamo"),
    *("torch._inductor", "torch.distributed.fsdp", "accelerate", "mteb", "pyarrow"),
)


def python(code: str, *args: object) -> str:
    """stdout of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from commands import run

    folder = tmp_path_factory.mktemp("start")
    corpus = folder / "corpus.jsonl"
    lines = (f'{{"id": "{number}", "text": "text number {number}"}}\n' for number in range(4))
    corpus.write_text("".join(lines), encoding="utf-8")
    run("-q", "build", corpus, "--index", folder / "index", "--threads", "1")
    return folder / "index"


def test_a_query_does_not_load_what_it_does_not_need(built: Path) -> None:
    loaded = python(
        "import sys\nfrom moee_index.cli import cli\n"
        "try:\n    cli(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('\\n'.join(sys.modules))",
        *query(built),
    ).split()
    assert [name for name in NOT_LOADED if name in loaded] == []


BEFORE = """
import builtins, sys
original, finders = builtins.__import__, list(sys.meta_path)
from moee_index.backends import load_transformers
load_transformers()
import torch, transformers
from moee_index.deferred import _ARRIVALS, _stands_in
def stand_ins():
    return [
        f"{module}.{name}"
        for module, loaded in list(sys.modules.items())
        if module.startswith(("transformers.", "torch."))
        for name, value in list(vars(loaded).items())
        if _stands_in(value)
    ]
assert stand_ins()
assert builtins.__import__ is original
assert "_dynamo" not in vars(torch) and "torch._dynamo" not in sys.modules
assert "scipy" not in sys.modules and "sympy" not in sys.modules
"""


def test_what_was_left_out_is_there_as_soon_as_it_is_imported() -> None:
    python(
        BEFORE
        + """
import scipy.optimize
from transformers.loss import loss_for_object_detection as loss, loss_rt_detr
assert loss.linear_sum_assignment is scipy.optimize.linear_sum_assignment
assert loss_rt_detr.linear_sum_assignment is scipy.optimize.linear_sum_assignment
import torch.fx.experimental.symbolic_shapes as shapes
from torch.distributed.tensor import _collective_utils, _decompositions
assert _collective_utils.guard_or_false is shapes.guard_or_false
assert _decompositions.GuardOnDataDependentSymNode is shapes.GuardOnDataDependentSymNode
import torch.distributed.fsdp
import torch.distributed._composable.fsdp
import torch.distributed.checkpoint.hf_storage
from transformers.distributed import fsdp
assert fsdp.CPUOffloadPolicy is torch.distributed.fsdp.CPUOffloadPolicy
import torch._dynamo
import torch._dynamo._trace_wrapped_higher_order_op
try:
    import accelerate, accelerate.hooks, accelerate.utils, accelerate.utils.modeling
except ImportError:
    pass
assert stand_ins() == []
assert sys.meta_path[:1] == finders[:1] and _ARRIVALS not in sys.meta_path
"""
    )


def test_what_was_left_out_is_there_as_soon_as_it_is_used() -> None:
    python(
        BEFORE
        + """
import numpy as np
from transformers.loss import loss_for_object_detection as loss
rows, columns = loss.linear_sum_assignment(np.array([[4.0, 1.0], [2.0, 8.0]]))
assert columns.tolist() == [1, 0]
assert loss.linear_sum_assignment.__module__.startswith("scipy.optimize")
matcher = loss.HungarianMatcher()
outputs = {"logits": torch.zeros(1, 3, 2), "pred_boxes": torch.full((1, 3, 4), 0.5)}
targets = [{"class_labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)}]
assert len(matcher(outputs, targets)[0][0]) == 1
from torch.distributed.tensor import DTensor, Replicate, Shard
from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES
assert ALL_PARALLEL_STYLES["colwise"].output_layouts == Shard(-1)
assert ALL_PARALLEL_STYLES["colwise"].input_layouts == Replicate()
import os
import torch.distributed as dist
from torch.distributed.tensor import distribute_tensor, init_device_mesh
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
mesh = init_device_mesh("cpu", (1,))
left = distribute_tensor(torch.eye(4), mesh, [Shard(0)])
assert torch.equal((left @ left).full_tensor(), torch.eye(4))
dist.destroy_process_group()
"""
    )


COMPILED = """
import torch
from transformers.integrations import deepgemm, flex_attention
from transformers.modeling_utils import PreTrainedModel
import torch._dynamo.trace_rules as rules
init = flex_attention.WrappedFlexAttention.__init__
marked = [name for name, value in vars(deepgemm).items()
          if getattr(value, "_dynamo_marked_constant", False)]
allowed = id(PreTrainedModel.can_record_outputs.fget) in rules._allowed_callable_ids
counted = torch._dynamo.testing.CompileCounter()
twice = torch.compile(lambda x: x * 2 + 1, backend=counted)
assert torch.equal(twice(torch.ones(3)), torch.full((3,), 3.0)) and counted.frame_count == 1
normal = torch.empty(3, device="meta").normal_()
print(sorted(marked), allowed, init._torchdynamo_disable, init._torchdynamo_orig_callable.__name__)
print(torch.compiler.disable.__module__, torch.compile.__module__)
"""


def test_the_compiler_finds_what_it_would_have_found() -> None:
    plain = python("import transformers.modeling_utils\nimport torch._dynamo.testing\n" + COMPILED)
    ours = python(BEFORE + "import torch._dynamo.testing\n" + COMPILED)
    assert ours == plain and "True True" in ours


def test_operations_that_ran_before_the_compiler_came_are_hidden_from_it_later() -> None:
    python(
        """
import sys, torch
from moee_index.backends import without_compiler
from moee_index.deferred import _ARRIVALS
for _ in range(2):
    with without_compiler():
        torch.empty(3, device="meta").normal_()
assert "torch._dynamo" not in sys.modules
assert _ARRIVALS.plain and all("__dynamo_disable" in vars(one) for one in _ARRIVALS.plain)
known = list(_ARRIVALS.plain)
torch.empty(3, device="meta").normal_()
import torch._dynamo
assert not _ARRIVALS.plain and _ARRIVALS not in sys.meta_path
torch.empty(3, device="meta").normal_()
assert all(vars(one)["__dynamo_disable"] is not one for one in known)
"""
    )


def test_what_a_program_has_imported_before_is_taken_as_it_is() -> None:
    python(
        """
import scipy.optimize, torch.distributed.fsdp, torch._dynamo
from moee_index.backends import load_transformers
load_transformers()
from transformers.loss import loss_for_object_detection as loss
from transformers.distributed import fsdp
assert loss.linear_sum_assignment is scipy.optimize.linear_sum_assignment
assert fsdp.CPUOffloadPolicy is torch.distributed.fsdp.CPUOffloadPolicy
"""
    )


# The mechanism, on a library made up


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `light` that imports names of a module `heavy`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(deferred, "_ARRIVALS", deferred._Arrivals())
    monkeypatch.setattr(deferred, "_EXCEPTIONS", frozenset({"Broken"}))
    (tmp_path / "heavy.py").write_text(
        "class Thing:\n    size = 3\n    def __init__(self, n=1): self.n = n\n"
        "class Broken(Exception): pass\n"
        "def double(x): return 2 * x\n"
    )
    (tmp_path / "light.py").write_text(
        "from heavy import Broken, Thing, double as twice\n"
        "def is_thing(x): return isinstance(x, (int, Thing)), issubclass(type(x), Thing)\n"
        "def careful(f):\n    try: return f()\n    except Broken: return 'broken'\n"
    )
    kept = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = kept
    for name in ("light", "heavy", "other"):
        sys.modules.pop(name, None)


def light() -> Any:
    with deferring(("light",), {"heavy": frozenset({"Broken", "Thing", "double"})}):
        import light  # type: ignore[import-not-found,unused-ignore]
    assert "heavy" not in sys.modules
    return light


@pytest.mark.parametrize(
    "use",
    [
        lambda module: module.twice(4) == 8,
        lambda module: module.Thing(5).n == 5,
        lambda module: module.Thing.size == 3,
        lambda module: isinstance(None, module.Thing | None),
        lambda module: isinstance(None, None | module.Thing),
        lambda module: type("Sub", (), {}) and _subclass(module.Thing)(2).n == 2,
    ],
)
def test_any_use_imports_and_mends(library: Path, use: Any) -> None:
    module = light()
    assert use(module)
    heavy = sys.modules["heavy"]
    assert module.twice is heavy.double and module.Thing is heavy.Thing
    assert module.Broken is heavy.Broken
    assert deferred._ARRIVALS not in sys.meta_path


def _subclass(base: Any) -> Any:
    class Sub(base):  # type: ignore[misc]
        pass

    return Sub


def test_asking_for_the_class_of_something_imports_nothing(library: Path) -> None:
    module = light()
    assert module.is_thing(2) == (True, False) and module.is_thing("x") == (False, False)
    with pytest.raises(ZeroDivisionError):
        module.careful(lambda: 1 / 0)
    assert "heavy" not in sys.modules
    import heavy  # type: ignore[import-not-found,unused-ignore]

    assert module.is_thing(heavy.Thing()) == (True, True)

    def fail() -> None:
        raise heavy.Broken

    assert module.careful(fail) == "broken"


def test_other_importers_other_names_and_other_threads_get_the_module_itself(
    library: Path,
) -> None:
    (library / "other.py").write_text("from heavy import double\n")
    seen: list[Any] = []

    def elsewhere() -> None:
        scope = {"__name__": "light"}
        exec("from heavy import double", scope)
        seen.append(scope["double"])

    with deferring(("light",), {"heavy": frozenset({"Thing"})}):
        import other  # type: ignore[import-not-found,unused-ignore]

        assert type(other.double) is not deferred.Deferred
        del sys.modules["heavy"]
        import light  # type: ignore[import-not-found,unused-ignore]
    assert type(light.twice) is not deferred.Deferred  # it asked for more than was listed
    del sys.modules["heavy"]
    with deferring(("light",), {"heavy": frozenset({"double"})}):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert [type(one) is deferred.Deferred for one in seen] == [False]


def test_a_library_that_fails_to_import_leaves_nothing_behind(library: Path) -> None:
    (library / "light.py").write_text("from heavy import double\n1 / 0\n")
    before = builtins.__import__, list(sys.meta_path)
    with pytest.raises(ZeroDivisionError), deferring(("light",), {"heavy": frozenset({"double"})}):
        import light  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    assert (builtins.__import__, list(sys.meta_path)) == before


def test_somebody_elses_import_hook_stays(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def theirs(*args: Any, **named: Any) -> Any:
        return ours(*args, **named)

    with deferring(("light",), {"heavy": frozenset({"double"})}):
        ours = builtins.__import__
        monkeypatch.setattr(builtins, "__import__", theirs)
    assert builtins.__import__ is theirs
    scope: dict[str, Any] = {"__name__": "light"}
    exec("from heavy import double", scope)
    assert type(scope["double"]) is not deferred.Deferred
    monkeypatch.setattr(builtins, "__import__", original)
