"""TOML → JobFile; what can be told from the text alone is refused here, with the line of every mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from ecc.api.fronts import AXES
from ecc.api.recipe import METHODS
from ecc.api.targets import sets_of
from ecc.api.weight_recipe import WEIGHT_METHODS
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.factories import suggestion
from ecc.sweeps.claims import claims_of, ray_of
from ecc.sweeps.entries import Entries, Mistakes
from ecc.sweeps.job_file import BudgetSet, Chain, JobFile, MethodEntry, NetworkEntry
from ecc.sweeps.lines import Path, lines_of

__all__ = ["draft_of", "read_job_file"]

_BUDGETS = '["latency=0.7,0.5,0.3"]'
_MOST_SEED = 2**32 - 1
_SETTINGS = ("epochs", "distill", "lr", "rounds", "chance")  # of a method, or of all in [training]
_MOST_BYTES = 1 << 20


def read_job_file(path: str | FilePath) -> JobFile:
    """Read a job file, without a look at what it names.

    Raises:
        InputError: If it is missing or no TOML, or has mistakes that can be seen in its text; all of them are named.
    """
    found = draft_of(path)
    found.mistakes.refuse()
    return found


def draft_of(path: str | FilePath) -> JobFile:
    """A job file as far as it can be understood; what is wrong with its text is noted in its ``mistakes``.

    Raises:
        InputError: If it is missing or no TOML.
    """
    file = FilePath(path).expanduser()
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InputError(f"job file {str(path)!r} is larger than {_MOST_BYTES >> 20} MiB; give the TOML of a sweep")
        text = file.read_bytes().decode("utf-8-sig")
        value = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"job file {str(path)!r} cannot be read: {error.strerror}; give the path of a file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"job file {str(path)!r} is no text in UTF-8; save it as such") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"job file {str(path)!r} is no TOML: {error or 'it nests too deep'}") from error
    return _job_file(file.resolve(), Entries(value, (), Mistakes(str(path), lines_of(text))))


def _job_file(file: FilePath, top: Entries) -> JobFile:
    training = top.table("training")
    shared = _Shared.of(training)
    found = JobFile(
        file=file,
        name=top.text("name", file.stem),
        out=top.text("out"),
        x=top.text("x"),
        seeds=_seeds(top),
        budgets=_budgets(top) or (),
        networks=_networks(top),
        methods=_methods(top, shared),
        chains=_chains(top),
        batch_size=training.whole("batch_size", 1, 128) or 128,
        device=training.text("device"),
        threads=training.whole("threads", 1, 1) or 1,
        timeout_s=_timeout_s(top),
        claims=claims_of(top),
        ray=ray_of(top),
        mistakes=top.mistakes,
    )
    if found.x and found.x not in AXES:
        top.wrong("x", f"axis {found.x!r} is unknown; choose from {', '.join(AXES)}")
    if not found.budgets and "budgets" not in top and not _all_have_budgets(found):
        top.mistakes.add((), f"budgets are missing; give for example budgets = {_BUDGETS}")
    training.demand_known("[training]")
    top.demand_known("a job file")
    return found


def _timeout_s(top: Entries) -> float:
    given = top.number("timeout_s")
    if given is not None and given <= 0:
        top.wrong("timeout_s", f"timeout_s must be a number of seconds above 0, got {given:g}; leave it out for none")
    return given or 0.0


def _all_have_budgets(found: JobFile) -> bool:
    """Whether no network and method is left to the budgets of the file."""
    return all(method.budgets or network.budgets for network in found.networks for method in found.methods)


def _seeds(top: Entries) -> tuple[int, ...]:
    given = top.array("seeds", "[0, 1, 2]") if "seeds" in top else [0]
    if not given:
        top.wrong("seeds", "seeds must be a list of whole numbers, for example [0, 1, 2]")
    for place, seed in enumerate(given):
        if type(seed) is not int or not 0 <= seed <= _MOST_SEED:
            top.mistakes.add(top.at("seeds", place), f"a seed must be a whole number from 0 to {_MOST_SEED}")
        elif seed in given[:place]:
            top.mistakes.add(top.at("seeds", place), f"seed {seed} is given twice; give it once")
    return tuple(given)


# -- budgets


def _budgets(entries: Entries) -> tuple[BudgetSet, ...] | None:
    """The budgets of a table; None where it has none."""
    if "budgets" not in entries:
        return None
    found: list[BudgetSet] = []
    for place, value in enumerate(entries.array("budgets", _BUDGETS)):
        path = entries.at("budgets", place)
        texts: list[Any] = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            entries.mistakes.add(path, f"a budget is a text or a list of texts that hold together, as in {_BUDGETS}")
            continue
        try:
            made = _together(texts, path) if isinstance(value, list) else _each(value, path)
        except InputError as error:
            entries.mistakes.add(path, str(error))
            continue
        for budgets in made:
            if any(budgets.budgets == other.budgets for other in found):
                entries.mistakes.add(path, f"budget {budgets.label} is given twice; give it once")
        found += made
    if not found and not entries.value["budgets"]:
        entries.wrong("budgets", f"budgets are empty; give for example budgets = {_BUDGETS}")
    return tuple(found)


def _each(text: str, path: Path) -> list[BudgetSet]:
    """``latency=0.7,0.5``: one set per limit."""
    pairs = zip(_limits(text), Budget.parse_list(text), strict=True)
    return [BudgetSet((own,), (budget,), path) for own, budget in pairs]


def _together(texts: list[str], path: Path) -> list[BudgetSet]:
    """``["latency=0.7,0.5", "params=0.5"]``: one set per step."""
    parsed = [Budget.parse_list(text) for text in texts]
    metrics = [budgets[0].metric for budgets in parsed]
    if len(set(metrics)) < len(metrics):
        raise InputError(f"budgets that hold together are on different metrics, got {', '.join(metrics)}")
    sets, limits = sets_of(parsed), [_limits(text) for text in texts]
    return [
        BudgetSet(tuple(own[min(step, len(own) - 1)] for own in limits), budgets, path)
        for step, budgets in enumerate(sets)
    ]


def _limits(text: str) -> list[str]:
    """Each limit of a budget as a budget of its own, as it was typed."""
    metric, _, limits = text.replace("<=", "=").replace("≤", "=").partition("=")
    return [f"{metric.strip()}={limit.strip()}" for limit in limits.split(",")]


# -- networks


def _networks(top: Entries) -> tuple[NetworkEntry, ...]:
    example = '[[networks]] with model = "zoo:resnet20", data = "cifar10", weights = "resnet20.safetensors"'
    found = []
    for place, value in enumerate(top.array("networks", example)):
        path = top.at("networks", place)
        if isinstance(value, Mapping):
            found.append(_network(Entries(value, path, top.mistakes)))
        else:
            top.mistakes.add(path, f"a network is a table, for example {example}")
    if "networks" not in top or top.value["networks"] == []:
        top.mistakes.add((), f"networks are missing; give for example {example}")
    _refuse_twice([(network.name, network.path) for network in found], "network", top.mistakes)
    return tuple(found)


def _network(own: Entries) -> NetworkEntry:
    model = own.demanded_text("model", "zoo:resnet20")
    weights, pretrain = own.text("weights"), own.whole("pretrain", 0, 0) or 0
    if model.startswith("zoo:") and not weights and not pretrain:
        own.wrong("model", f'the weights of {model} are random; give weights = "FILE", or pretrain = EPOCHS')
    found = NetworkEntry(
        name=own.text("name", model.rpartition(":")[2] or "network"),
        model=model,
        options=_texts(own.table("options")),
        data=own.demanded_text("data", "cifar10"),
        data_dir=own.text("data_dir"),
        weights=weights,
        pretrain=pretrain,
        seed=own.whole("seed", 0, 0) or 0,
        devices=_devices(own),
        budgets=_budgets(own),
        claims=claims_of(own),
        path=own.path,
    )
    own.demand_known("a network")
    return found


def _texts(options: Entries) -> dict[str, str]:
    """Options of a factory as the command line would give them."""
    found = {}
    for names, value in options.leaves():
        if len(names) > 1 or isinstance(value, list):
            options.wrong(names[0], f"option {names[0]} of a factory must be a number, a text, true or false")
        else:
            found[names[0]] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _devices(own: Entries) -> dict[str, tuple[str, ...]]:
    """``costs = […]`` of one device, or a table of devices."""
    if isinstance(own.value.get("costs"), Mapping):
        table = own.table("costs")
        found = {name: tuple(table.texts(name, '["latency.json"]')) for name in table.value}
        if not found:
            own.wrong("costs", 'costs are empty; give a device, for example cpu = "latency.json", or leave them out')
        return found or {"": ()}
    return {"": tuple(own.texts("costs", '["latency.json"]'))}


# -- methods


@dataclass(frozen=True, slots=True)
class _Shared:
    """Settings of all methods.

    Attributes:
        settings: As of MethodEntry.
        options: As of MethodEntry; of parts that only some methods have, too.
        where: Where each stands.
    """

    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    where: Mapping[str, Path]

    @classmethod
    def of(cls, training: Entries) -> _Shared:
        settings = _settings(training)
        options = training.table("options")
        found = {".".join(names): (value, options.at(*names)) for names, value in options.leaves()}
        known = ("train", "solve", "tune", "then", *METHODS, *WEIGHT_METHODS)
        for name, (_, path) in found.items():
            part, dot, _ = name.partition(".")
            if not dot or part not in known:
                training.mistakes.add(path, f"option {name!r} is of no part of a job{suggestion(part, list(known))}")
        where = {name: training.at(name) for name in settings} | {name: path for name, (_, path) in found.items()}
        return cls(settings, {name: value for name, (value, _) in found.items()}, where)

    def options_for(self, method: str, then: str | None) -> dict[str, Any]:
        """Those of parts that a job of the method has."""
        parts = {"train", method, *([then, "then"] if then else [])}
        parts |= {"tune", "solve"} if method in METHODS else set()
        return {name: value for name, value in self.options.items() if name.partition(".")[0] in parts}


def _methods(top: Entries, shared: _Shared) -> tuple[MethodEntry, ...]:
    example = '["admm", "uniform"]'
    found: list[MethodEntry] = []
    for place, value in enumerate(top.array("methods", example)):
        path = top.at("methods", place)
        if isinstance(value, str):
            value = {"method": value}
        if isinstance(value, Mapping):
            found.append(_method(Entries(value, path, top.mistakes), shared))
        else:
            top.mistakes.add(path, f"a method is a name or a table, as in methods = {example}")
    if "methods" not in top or top.value["methods"] == []:
        top.mistakes.add((), f"methods are missing; give for example methods = {example}")
    _refuse_twice([(method.label, method.path) for method in found], "method", top.mistakes)
    return tuple(found)


def _method(own: Entries, shared: _Shared) -> MethodEntry:
    known = [*METHODS, *WEIGHT_METHODS]
    method, then = own.demanded_text("method", "admm"), own.text("then") or None
    for name, given, among in (("method", method, known), ("then", then, list(WEIGHT_METHODS))):
        if given and given not in among:
            own.wrong(name, f"{name} {given!r} is unknown{suggestion(given, among)}")
    settings = _settings(own)
    options, where = {}, dict(shared.where)
    table = own.table("options")
    for names, value in table.leaves():
        name = ".".join(names if len(names) > 1 else (method, *names))
        options[name], where[name] = value, table.at(*names)
    where |= {name: own.at(name) for name in (*settings, "then") if name in own}
    found = MethodEntry(
        label=own.text("label", f"{method}+{then}" if then else method),
        method=method,
        then=then,
        settings={**shared.settings, **settings},
        options={**shared.options_for(method, then), **options},
        budgets=_budgets(own),
        where=where,
        path=own.path,
    )
    own.demand_known("a method")
    return found


def _settings(own: Entries) -> dict[str, Any]:
    """The settings that a table gives."""
    values: dict[str, Any] = {name: own.whole(name, 1) for name in ("epochs", "rounds")}
    values |= {name: own.number(name) for name in ("distill", "lr", "chance")}
    return {name: values[name] for name in _SETTINGS if values[name] is not None}


# -- stages


def _chains(top: Entries) -> tuple[Chain, ...]:
    found = []
    for place, value in enumerate(top.array("stages", '[[stages]] with apply = ["deep-compression"]')):
        path = top.at("stages", place)
        if not isinstance(value, Mapping):
            top.mistakes.add(path, 'stages are tables, for example [[stages]] with apply = ["deep-compression"]')
            continue
        own = Entries(value, path, top.mistakes)
        apply = own.texts("apply", '["fold", "fixed-point"]')
        if not apply and not own.mistakes.hold(own.at("apply")):
            own.mistakes.add(path, 'apply is missing; give for example apply = ["deep-compression"]')
        table = own.table("options")
        options, where = {}, {name: own.at("apply", number) for number, name in enumerate(apply)}
        for names, each in table.leaves():
            name = ".".join(names)
            options[name], where[name] = each, table.at(*names)
        found.append(Chain(own.text("name", "+".join(apply)), tuple(apply), options, where, path))
        own.demand_known("[[stages]]")
    _refuse_twice([(chain.name, chain.path) for chain in found], "chain of stages", top.mistakes)
    return tuple(found)


def _refuse_twice(named: Iterable[tuple[str, Path]], what: str, mistakes: Mistakes) -> None:
    seen: set[str] = set()
    for name, path in named:
        if name in seen:
            mistakes.add(path, f"there are two entries of {what} {name!r}; give each a name (label) of its own")
        seen.add(name)
