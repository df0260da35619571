"""Objects that users name: ``package.module:factory`` and ``file.py:factory``, imported and called with plain errors.

What is named is the user's own code and is run as such; nothing is unpickled. A name that stands in a file, such as the
manifest of an artefact, may come from a stranger: then only functions and classes of packages and files other than
Python's own and torch's are called, and torch's modules.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from ecc.core.errors import EccError, InputError

__all__ = ["build", "call", "kind_of", "parse_value", "reason", "suggestion"]


def parse_value(text: str) -> int | float | bool | str:
    """A value of ``key=value`` as int, float, bool or text, whichever reads it first."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def kind_of(value: Any) -> str:
    """The name of a value's type with its article: ``an int``, ``a tuple``."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in set('aeiou') else 'a'} {name}"


def suggestion(name: str, known: list[str]) -> str:
    """``; did you mean …?`` with the names nearest to ``name``, or all of them when none is near."""
    plain = name.lower().replace("_", "-")
    near = difflib.get_close_matches(plain, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else f"; choose from {', '.join(known)}"


def reason(error: BaseException) -> str:
    """Kind and first line of a foreign error, short enough for one sentence."""
    lines = str(error).strip().splitlines()
    text = lines[0][:300] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def build(
    kind: str,
    spec: str,
    options: Mapping[str, Any] | None = None,
    offer: Mapping[str, Any] | None = None,
    *,
    stored: bool = False,
) -> Any:
    """Import the factory that ``spec`` names and call it.

    Args:
        kind: What is built, for messages: ``model`` or ``data``.
        spec: ``package.module:factory`` (the current folder counts) or ``file.py:factory``.
        options: Keyword arguments from the user; one that the factory does not take is an error.
        offer: Keyword arguments that the factory gets only if it names them.
        stored: Whether the spec was read from a file.

    Raises:
        InputError: If the module, the file or the attribute does not exist, the call does not fit, or it fails; or if
            a stored spec names what makes no networks.
    """
    where, _, attribute = spec.rpartition(":")
    if not where or not attribute:
        raise InputError(f"{kind} {spec!r} names no factory; write package.module:factory or file.py:factory")
    from_file = where.endswith(".py")
    folder = Path(where).expanduser().resolve().parent if from_file else Path.cwd()
    with _importable(folder):
        module = _import_file(kind, spec, Path(where).expanduser()) if from_file else _import_module(kind, spec, where)
        factory = _attribute(kind, spec, module, attribute)
        if stored:
            _refuse_foreign(kind, spec, factory)
        return call(kind, spec, factory, options or {}, offer)


def call(
    kind: str,
    spec: str,
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    offer: Mapping[str, Any] | None = None,
) -> Any:
    """Call a factory that is at hand; arguments and errors as in ``build``."""
    options = dict(options)
    try:
        signature: inspect.Signature | None = inspect.signature(factory)
    except (TypeError, ValueError):  # some builtins have none
        signature = None
    if signature is not None:
        named = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        options = {name: value for name, value in (offer or {}).items() if name in named} | options
        try:
            signature.bind(**options)
        except TypeError as error:
            takes = f"it takes {', '.join(named)}" if named else "it takes no options"
            raise InputError(f"{kind} {spec!r} cannot be called with these options: {error}; {takes}") from error
    try:
        return factory(**options)
    except EccError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{kind} {spec!r}: the factory failed with {reason(error)}; mend it or its options") from error


def _refuse_foreign(kind: str, spec: str, factory: Callable[..., Any]) -> None:
    """Refuse what no user would name as a network's factory: ``os.system`` by whatever path, ``torch.hub.load``."""
    if isinstance(factory, type) and issubclass(factory, nn.Module):
        return
    home = (getattr(factory, "__module__", None) or "builtins").partition(".")[0]
    own = home not in sys.stdlib_module_names and home != "torch"
    if not own or not isinstance(factory, FunctionType | MethodType | type):
        raise InputError(
            f"{kind} {spec!r} stands in a file and names no factory of networks, so it is not run; "
            "if you trust the file, give the network that it means: model=..."
        )


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let imports find what lies in ``folder``, as Python does for a script there."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _import_file(kind: str, spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{kind} {spec!r}: there is no file {path}; give the path of a Python file")
    path = path.resolve()
    name = f"_ecc_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise InputError(f"{kind} {spec!r}: {path} cannot be imported as a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and torch look a class's module up by name
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{kind} {spec!r}: importing {path} failed with {reason(error)}; mend the file") from error
    return module


def _import_module(kind: str, spec: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            f"{kind} {spec!r}: {name!r} is no module name; write package.module:factory or file.py:factory"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InputError(
                f"{kind} {spec!r}: there is no module {error.name!r} in the current folder or this environment; "
                "install it, or give the path of a file as file.py:factory"
            ) from error
        raise InputError(f"{kind} {spec!r}: importing {name} failed with {reason(error)}; install it") from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{kind} {spec!r}: importing {name} failed with {reason(error)}; mend the module") from error


def _attribute(kind: str, spec: str, module: ModuleType, attribute: str) -> Callable[..., Any]:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            hint = suggestion(attribute, sorted(own)) if own else "; it defines no factory"
            raise InputError(f"{kind} {spec!r}: {spec.rpartition(':')[0]} has no {attribute!r}{hint}") from error
    if not callable(found):
        raise InputError(
            f"{kind} {spec!r}: {attribute} is a {type(found).__name__}, not a factory; name a function that makes it"
        )
    called: Callable[..., Any] = found
    return called
