"""Finding a Ray cluster or starting one, and asking its nodes what they are."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ecc.core.errors import InputError, UnavailableError
from ecc.sweeps.engines.cluster import Node

__all__ = ["LOCAL", "Settings", "alive", "connect", "probe", "split_address", "the_ray"]

LOCAL = "the Ray cluster that was started here"
"""What a cluster is called that was started for the sweep."""

_ANSWER_S = 5.0
_PROBE_S = 120.0  # a worker's start on a busy node takes long


@dataclass(frozen=True, slots=True)
class Settings:
    """How to use Ray.

    Attributes:
        address: ``HOST:PORT`` of a running cluster, ``auto`` for the one that this machine belongs to; empty for
            $RAY_ADDRESS, and where that is not set, for a cluster that is started here and ends with the sweep.
        workers: Cores of a cluster that is started here; 0 for all.
        attempts: How often a unit is begun at most, when its worker or its node dies.
        wait_s: How long to wait for a node that has what a unit claims, before that unit fails.
        mixed_versions: Whether nodes may run other versions of Python, torch and this package.
        grace_s: How long workers that are told to end may take to keep their state.
    """

    address: str = ""
    workers: int = 0
    attempts: int = 3
    wait_s: float = 20.0
    mixed_versions: bool = False
    grace_s: float = 20.0

    def __post_init__(self) -> None:
        if self.address not in ("", "auto", "local"):
            split_address(self.address)
        if self.attempts < 1:
            raise InputError(f"attempts of Ray must be at least 1, got {self.attempts}")
        if self.workers < 0:
            raise InputError(f"workers of Ray must be at least 0, got {self.workers}")
        if not 0 <= self.wait_s < float("inf"):
            raise InputError(f"wait_s of Ray must be a number of seconds, got {self.wait_s}")


def the_ray() -> Any:
    """Ray, which is an extra, and differs in its types from one release to the next.

    Raises:
        UnavailableError: If it is not installed.
    """
    try:
        import_module("ray.util.scheduling_strategies")
        return import_module("ray")
    except ImportError as error:
        raise UnavailableError(
            f"the engine ray needs Ray, which cannot be imported ({error}); pip install 'ecc-compress[ray]'"
        ) from error


def split_address(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        InputError: If it has another form.
    """
    if address.startswith("ray://"):
        raise InputError(
            f"{address!r} is of Ray's client, which cannot send results back in pieces; run the sweep on a machine of "
            "the cluster, with address = 'auto' or the HOST:PORT that ray start has printed"
        )
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"{address!r} is no address of a Ray cluster; give HOST:PORT or 'auto'")
    return host.strip("[]"), int(port)


def connect(settings: Settings) -> str:
    """Join a cluster, or start one; gives its name for people.

    Raises:
        UnavailableError: If there is none, it does not answer, or it runs another version of Ray or Python.
    """
    ray = the_ray()
    quiet: dict[str, Any] = {"configure_logging": False, "log_to_driver": False, "logging_level": logging.ERROR}
    address = settings.address or os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        ray.init(address="local", num_cpus=settings.workers or None, include_dashboard=False, **quiet)
        return LOCAL
    if address != "auto":
        _demand_answer(address)
    where = "the Ray cluster of this machine" if address == "auto" else f"the Ray cluster at {address}"
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise UnavailableError(
            f"{where} cannot be reached; start one with ray start --head, or leave out the address"
        ) from error
    except (RuntimeError, ray.exceptions.RayError) as error:
        told = " ".join(str(error).split())
        raise UnavailableError(f"{where} cannot be joined: {told[:500]}") from error
    return where


def alive() -> list[Node]:
    """The nodes that are alive, sorted by name."""
    ray = the_ray()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            name = f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"
            found.append(Node(node["NodeID"], name, dict(node["Resources"])))
    return sorted(found, key=lambda node: node.name)


def probe(nodes: Sequence[Node]) -> dict[str, Mapping[str, str]]:
    """Versions of every node that answers, by its name."""
    ray = the_ray()
    task = ray.remote(_asked())
    asked = {}
    for node in nodes:
        there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked[node.name] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_PROBE_S) if asked else ([], [])
    found = {}
    for name, answer in asked.items():
        if answer in ready:
            try:
                found[name] = ray.get(answer)
            except ray.exceptions.RayError:  # it died just now
                continue
    return found


def _asked() -> Callable[[], Mapping[str, str]]:
    """A function that travels as it is, to nodes that may not have this package."""

    def ask() -> Mapping[str, str]:
        try:
            from ecc.sweeps.engines.cluster import versions
        except ImportError as error:
            return {"missing": str(error)}
        return versions()

    return ask


def _demand_answer(address: str) -> None:
    """Ray itself would wait for an address where nobody answers, without an end.

    Raises:
        UnavailableError: If nobody does.
    """
    try:
        socket.create_connection(split_address(address), timeout=_ANSWER_S).close()
    except OSError as error:
        raise UnavailableError(
            f"nobody answers at {address} ({error.strerror or error}); start a Ray cluster with ray start --head, or "
            "leave out the address to have one started here"
        ) from error
