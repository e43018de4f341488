"""Names that a library imports for work we never ask of it, kept out of memory until they are used.

While `deferring` runs, `from module import name` in the library's own modules gives a `Deferred`
in place of each name listed, and decorators of torch's compiler are noted down. Nobody else sees
any of it: no stand-in is ever in `sys.modules`. As soon as a name is used, or anybody imports its
module, the module is imported for real and every stand-in is replaced by what it stood for.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"

# Two threads at once would leave each other's stand-ins behind.
_ONE_AT_A_TIME = threading.RLock()

# Names that stand behind `except`.
_EXCEPTIONS = frozenset({"GuardOnDataDependentSymNode"})

# Modules of torch that import its compiler only to hand a function on to one of its decorators.
_HANDING_ON = ("torch._compile", "torch.compiler")

# Where torch keeps what it made of such a function.
_KNOWN = "__dynamo_disable"

# Decorators of torch's compiler that change nothing but what the compiler makes of a function.
_DECORATORS = ("allow_in_graph", "assume_constant_result", "disable")


class Deferred:
    """A name of a module that is not imported yet; whatever is done with it imports the module.

    No instance of a class can exist before its module was imported, so asking for one imports
    nothing.
    """

    def __init__(self, module: str, name: str) -> None:
        self.__dict__.update(_deferred_module=module, _deferred_name=name)

    def _deferred(self) -> Any:
        return getattr(import_module(self._deferred_module), self._deferred_name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._deferred(), name)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._deferred()(*args, **named)

    def __getitem__(self, item: Any) -> Any:
        return self._deferred()[item]

    def __or__(self, other: Any) -> Any:
        return self._deferred() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._deferred()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._deferred(),)

    def __instancecheck__(self, instance: Any) -> bool:
        return self._deferred_module in sys.modules and isinstance(instance, self._deferred())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._deferred_module in sys.modules and issubclass(subclass, self._deferred())


class _Never(Exception):
    """Stands for an exception, which nobody can raise before its module is imported."""


def _stands_in(value: Any) -> bool:
    return type(value) is Deferred or (isinstance(value, type) and issubclass(value, _Never))


@dataclass(frozen=True)
class _Decoration:
    """A decorator of the compiler that waits until the compiler is imported."""

    name: str
    function: Callable[..., Any]
    options: dict[str, Any]

    def apply(self, compiler: ModuleType) -> None:
        made = getattr(compiler, self.name)(self.function, **self.options)
        if made is not self.function:
            owner: Any = sys.modules[self.function.__module__]
            *classes, name = self.function.__qualname__.split(".")
            for one in classes:
                owner = getattr(owner, one)
            if vars(owner).get(name) is self.function:
                setattr(owner, name, made)


@dataclass
class _Arrivals:
    """What waits for modules that are not imported yet. A finder, for as long as something does.

    names: by module the places that hold stand-ins. plain: functions that torch took for hidden
    from its compiler already.
    """

    names: dict[str, list[tuple[dict[str, Any], str]]] = field(default_factory=dict)
    decorations: list[_Decoration] = field(default_factory=list)
    plain: list[Callable[..., Any]] = field(default_factory=list)

    def waits_for(self, module: str) -> bool:
        return module in self.names or (module == COMPILER and bool(self.decorations or self.plain))

    def watch(self) -> None:
        if (self.names or self.decorations or self.plain) and self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """What the other finders find; a module that is waited for reports when it has run."""
        if not self.waits_for(name):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._report(spec)
                return spec
        return None

    def _report(self, spec: ModuleSpec) -> None:
        loader: Any = spec.loader

        def execute(module: ModuleType) -> None:
            del loader.exec_module
            loader.exec_module(module)
            self.arrived(module)

        loader.exec_module = execute

    def arrived(self, module: ModuleType) -> None:
        """Put what was waited for in its places."""
        for names, name in self.names.pop(module.__name__, ()):
            found: Any = names.get(name)
            if _stands_in(found):
                names[name] = getattr(module, found._deferred_name)
        if module.__name__ == COMPILER:
            decorations, self.decorations = self.decorations, []
            for decoration in decorations:
                decoration.apply(module)
            while self.plain:
                vars(self.plain.pop()).pop(_KNOWN, None)
        if not (self.names or self.decorations or self.plain) and self in sys.meta_path:
            sys.meta_path.remove(self)


_ARRIVALS = _Arrivals()


@dataclass(frozen=True)
class _Names:
    """A module as `from module import name` sees it."""

    module: str

    def __getattr__(self, name: str) -> Any:
        if name in _EXCEPTIONS:
            return type(name, (_Never,), {"_deferred_module": self.module, "_deferred_name": name})
        return Deferred(self.module, name)


class _Compiler:
    """Stands for torch's compiler while a library is imported: notes down what one thread
    decorates, and is the compiler itself for everything else."""

    def __init__(self, thread: int) -> None:
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        if name in _DECORATORS and threading.get_ident() == self._thread:
            return lambda function=None, *args, **options: self._decorate(
                name, function, args, options
            )
        return getattr(import_module(COMPILER), name)

    def _decorate(self, name: str, function: Any, args: tuple[Any, ...], options: Any) -> Any:
        if options.get("wrapping") is False:  # torch's own functions, at their first call
            _ARRIVALS.plain.append(function)
            return function
        if args:  # torch.compiler.disable hands on its second argument by position
            options = {"recursive": args[0], **options}
        if function is None:
            return lambda decorated: self._decorate(name, decorated, (), options)
        if "<locals>" in function.__qualname__:
            return getattr(import_module(COMPILER), name)(function, **options)
        _ARRIVALS.decorations.append(_Decoration(name, function, options))
        return function


@dataclass
class _Importing:
    """In place of `builtins.__import__` for one thread and some importers, and that for all
    others."""

    original: Callable[..., Any]
    thread: int
    importers: tuple[str, ...]
    names: Mapping[str, frozenset[str]]
    active: bool = True

    def __call__(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if self.active and not level and threading.get_ident() == self.thread:
            importer = (globals or {}).get("__name__") or ""
            wanted = set(fromlist or ())
            if wanted and importer.startswith(self.importers) and name not in sys.modules:
                if wanted <= self.names.get(name, frozenset()):
                    return _Names(name)
            elif not wanted and name == COMPILER and importer in _HANDING_ON:
                return sys.modules["torch"]
        return self.original(name, globals, locals, fromlist, level)


@contextmanager
def deferring(importers: tuple[str, ...], names: Mapping[str, frozenset[str]]) -> Iterator[None]:
    """Import inside without what `names` lists: of each module the names that are not needed yet.
    Also without torch's compiler, where its decorators are all that is asked of it.

    importers: how the names of the modules begin that are meant. Acts on imports by these and by
    this thread alone; a module or a name that is not listed, or is there already, is imported as
    ever.
    """
    import torch

    with _ONE_AT_A_TIME:
        thread, before = threading.get_ident(), set(sys.modules)
        importing = _Importing(builtins.__import__, thread, importers, names)
        compiler = _Compiler(thread)
        vars(torch).setdefault("_dynamo", compiler)
        builtins.__import__ = importing
        try:
            yield
        finally:
            importing.active = False
            if builtins.__import__ is importing:  # unless somebody has replaced it meanwhile
                builtins.__import__ = importing.original
            if vars(torch)["_dynamo"] is compiler:
                del vars(torch)["_dynamo"]
            _note_places(importers, before)


def _note_places(importers: tuple[str, ...], before: set[str]) -> None:
    """Find where the importers' new modules hold stand-ins, and wait for what they stand for."""
    for name in set(sys.modules) - before:
        if not name.startswith(importers):
            continue
        held = vars(sys.modules[name])
        for key, value in list(held.items()):
            if _stands_in(value):
                _ARRIVALS.names.setdefault(value._deferred_module, []).append((held, key))
    _ARRIVALS.watch()
    for name in [*_ARRIVALS.names, COMPILER]:
        if name in sys.modules and _ARRIVALS.waits_for(name):  # imported meanwhile
            _ARRIVALS.arrived(sys.modules[name])
