"""From Hydra's composed configuration to one typed object, without losing or guessing anything."""

import difflib
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from cispo.errors import ConfigError

Schema = TypeVar("Schema")


def to_typed(config: DictConfig, schema: type[Schema]) -> Schema:
    """Turn a composed configuration into its schema's dataclass, whose constructors validate it.

    Raises:
        ConfigError: A key is unknown (also one added with `+`), missing, or its value does not fit.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    refuse_unknown_keys(plain, schema, prefix="")
    try:
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), config))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: has no value; set {error.full_key}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {error.msg}") from error
    assert isinstance(typed, schema)
    return typed


def refuse_unknown_keys(node: object, schema: object, *, prefix: str) -> None:
    """Walk a plain configuration beside its schema.

    Raises:
        ConfigError: A key is not in the schema; the message suggests the nearest one.
    """
    if isinstance(node, list):
        for index, item in enumerate(node):
            refuse_unknown_keys(item, _item_type(schema), prefix=f"{prefix.rstrip('.')}[{index}].")
    if not isinstance(node, dict) or not (isinstance(schema, type) and is_dataclass(schema)):
        return
    types = get_type_hints(schema)
    known = [field.name for field in fields(schema)]
    for key, value in node.items():
        if key not in known:
            raise ConfigError(unknown_key(f"{prefix}{key}", known))
        refuse_unknown_keys(value, types[key], prefix=f"{prefix}{key}.")


def unknown_key(full_key: str, known: list[str]) -> str:
    """Say that a key does not exist and which one was probably meant."""
    *parents, key = full_key.split(".")
    near = difflib.get_close_matches(key, known, n=1)
    where = ".".join(parents)
    if near:
        return f"{full_key}: no such key; did you mean {'.'.join([*parents, near[0]])}?"
    return f"{full_key}: no such key; {where or 'the configuration'} has {', '.join(sorted(known))}"


def schema_at(schema: Any, keys: list[str]) -> Any:
    """The type below a schema at a path of keys, or None where the path leaves the schema."""
    for key in keys:
        if not (isinstance(schema, type) and is_dataclass(schema)):
            return None
        schema = get_type_hints(schema).get(key)
    return schema


def _item_type(schema: object) -> object:
    arguments = get_args(schema)
    return arguments[0] if arguments else None
