"""What the options of a configuration must keep to, said in one form."""

from __future__ import annotations

from collections.abc import Mapping

from ecc.core.errors import InputError

__all__ = ["demand_rules"]


def demand_rules(config: object, rules: Mapping[str, tuple[object, str]]) -> None:
    """Refuse the first option of a configuration that breaks its rule.

    Args:
        config: Has the options as attributes; its type is named in the message.
        rules: Name of an option → whether (true or not) its rule holds, and the rule, such as "must be positive".

    Raises:
        InputError: If one does not hold.
    """
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(f"{type(config).__name__}({name}=...) {rule}, got {getattr(config, name)!r}")
