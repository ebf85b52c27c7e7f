# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""A stub of an engine: a module whose CLAIMS say which names the engine has in which of its modules.

`install` lets a plugin import them from there. `faults` compares them with the engine's source: classes, methods and
functions with their parameters, fields, members of enums. Sources are parsed, never imported: an engine needs a GPU and
some hundred packages.
"""
import ast
import enum
import inspect
import os
import pathlib
import sys
import types

import pytest

SOURCES = "SWITCHYARD_ENGINE_SOURCES"


def install(stub):
    """The stub's names as modules of the engine."""
    for module_name, names in stub.CLAIMS.items():
        parent = None
        for depth in range(module_name.count(".") + 1):
            name = module_name.rsplit(".", module_name.count(".") - depth)[0]
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                sys.modules[name].__path__ = []
            if parent is not None:
                setattr(parent, name.rsplit(".", 1)[1], sys.modules[name])
            parent = sys.modules[name]
        for name in names:
            value = getattr(stub, name)
            if isinstance(value, type) and value.__module__ == stub.__name__:
                value.__module__ = module_name
            setattr(parent, name, value)


def remove(*packages):
    """What `install` made, and the plugin that imported it."""
    for name in list(sys.modules):
        if any(name == p or name.startswith(p + ".") for p in packages):
            del sys.modules[name]


def source_folder():
    folder = os.environ.get(SOURCES)
    if not folder:
        pytest.skip(f"{SOURCES} does not name a folder with the sources of engines: scripts/engine_contracts.sh")
    return pathlib.Path(folder)


# ---- the comparison


def parameters_of(function):
    a = function.args
    return [p.arg for p in (*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else []))]


def _targets(node):
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {t.id if isinstance(t, ast.Name) else t.attr for t in targets if isinstance(t, (ast.Name, ast.Attribute))}


def definition_of(nodes, name):
    """The last definition of a name, also below `if`."""
    found = None
    for node in nodes:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found = node if node.name == name else found
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found = node if name in _targets(node) else found
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found = node if any((a.asname or a.name) == name for a in node.names) else found
        elif isinstance(node, (ast.If, ast.Try)):
            found = definition_of([*node.body, *node.orelse], name) or found
    return found


def _attributes(node):
    """Fields, methods, and what any method assigns to self."""
    names = set()
    for child in ast.walk(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(child.name)
        elif isinstance(child, (ast.Assign, ast.AnnAssign)):
            names |= _targets(child)
    return names


def _members(cls):
    """What a class of the stub says of itself, without what Python adds to it."""
    private = not issubclass(cls, (tuple, enum.Enum))
    return {n: v for n, v in vars(cls).items()
            if n == "__init__" or not n.startswith("_") or (private and not n.startswith(("__", "_abc_")))}


def _class_faults(at, cls, node):
    if not isinstance(node, ast.ClassDef):
        yield f"{at} is no class"
        return
    has = _attributes(node)
    members = _members(cls)
    named_tuple = issubclass(cls, tuple)
    for name in {*vars(cls).get("__annotations__", {}), *members}:
        value = members.get(name)
        if name == "__init__" and "__dataclass_fields__" in vars(cls):
            continue
        if name not in has:
            yield f"{at} has no {name}"
            continue
        function = getattr(value, "__func__", value)
        if isinstance(value, property) or named_tuple or not inspect.isfunction(function):
            continue
        ours = list(inspect.signature(function).parameters)
        theirs = definition_of(node.body, name)
        if not isinstance(theirs, ast.FunctionDef):
            yield f"{at}.{name} is no function"
        elif parameters_of(theirs) != ours:
            yield f"{at}.{name} takes {', '.join(parameters_of(theirs))}, not {', '.join(ours)}"
    if issubclass(cls, enum.Enum):
        values = {t: ast.literal_eval(n.value) for n in node.body if isinstance(n, ast.Assign) for t in _targets(n)}
        for member in cls:
            if values.get(member.name) != member.value:
                yield f"{at}.{member.name} is {values.get(member.name)!r}, not {member.value!r}"


def faults(stub, folder):
    """What the engine's source has otherwise than the stub claims."""
    for module_name, names in stub.CLAIMS.items():
        path = folder.joinpath(*module_name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.exists():
            yield f"no module {module_name}"
            continue
        tree = ast.parse(path.read_text())
        for name in names:
            at, value, node = f"{module_name}.{name}", getattr(stub, name), definition_of(tree.body, name)
            if node is None:
                yield f"no {at}"
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                continue  # a name that the module takes from another one
            elif isinstance(value, type):
                yield from _class_faults(at, value, node)
            elif inspect.isfunction(value) and isinstance(node, ast.FunctionDef):
                ours = list(inspect.signature(value).parameters)
                if parameters_of(node) != ours:
                    yield f"{at} takes {', '.join(parameters_of(node))}, not {', '.join(ours)}"
