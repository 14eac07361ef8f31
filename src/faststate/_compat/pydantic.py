"""Private names of pydantic. Its core schemas are public, and so are the attributes of a model that its docs list."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import SchemaValidator

# -- validators --------------------------------------------------------------------------------------------------------


def _can_rebuild() -> bool:
    try:
        SchemaValidator({"type": "any"}, None, _use_prebuilt=False)
    except TypeError:  # before pydantic 2.13
        return False
    return True


rebuilds_models: Final = _can_rebuild()
"""True if `build_validator` builds a model from the given schema. If not, it takes the model's own validator."""


def build_validator(schema: dict[str, Any]) -> Callable[[Any], Any]:
    """Build the function that validates by a core schema."""
    make: Any = SchemaValidator
    made = make(schema, None, _use_prebuilt=False) if rebuilds_models else make(schema)
    validate: Callable[[Any], Any] = made.validate_python
    return validate


def is_fraction(schema: dict[str, Any]) -> bool:
    """True for the core schema of a Fraction. If pydantic changes it, no bound is set to the digits of one."""
    if schema["type"] == "function-plain":  # before pydantic 2.14
        return getattr(schema["function"]["function"], "__name__", "") == "fraction_validator"
    return bool(schema["type"] == "fraction")


def converts(function: Any) -> bool:
    """True for a function of pydantic's own that decodes what it is given, or looks whether a file is there.

    If pydantic renames these, they are run again on values that they have made already.
    """
    return getattr(function, "__qualname__", "").startswith(("EncodedBytes.", "EncodedStr.", "PathType."))


# -- what the author of a class has written ----------------------------------------------------------------------------


def model_validator_modes(cls: type[Any]) -> list[str]:
    """List the modes ("before", "wrap", "after") of all model validators of a model or dataclass."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    return [each.info.mode for each in decorators.model_validators.values()] if decorators is not None else []


def validates_whole(cls: type[BaseModel]) -> bool:
    """True if a model has a validator of all its values together."""
    own = cls.__pydantic_decorators__
    return bool(own.model_validators or own.root_validators)


def validated_fields(cls: type[BaseModel]) -> set[str]:
    """Return the names of the fields for which a model has validators that are written as methods; "*" for all."""
    return {name for each in cls.__pydantic_decorators__.field_validators.values() for name in each.info.fields}


def has_validators(cls: type[BaseModel]) -> bool:
    """True if a model has a validator that is written as a method."""
    own = cls.__pydantic_decorators__
    return bool(own.field_validators or own.validators or validates_whole(cls))


def has_serializers(cls: type[BaseModel]) -> bool:
    """True if a model has a serializer that is written as a method."""
    own = cls.__pydantic_decorators__
    return bool(own.field_serializers or own.model_serializers)


def fills_fields(cls: type[BaseModel]) -> bool:
    """True if code of a model may give values to its fields before they are validated."""
    own = cls.__pydantic_decorators__
    is_early = any(mode != "after" for mode in model_validator_modes(cls))
    return bool(cls.__pydantic_custom_init__ or own.root_validators or is_early)


def has_post_init(cls: type[BaseModel]) -> bool:
    """True if a model has a `model_post_init` of its own.

    For private attributes pydantic puts a function there, which wraps the class's, under another name. If pydantic
    renames that function, this is true for all classes with private attributes, and their new states are not shared.
    """
    own = cls.model_post_init
    return own is not BaseModel.model_post_init and getattr(own, "__name__", "") != "init_private_attributes"


def mark_base_init(function: Any) -> None:
    """Mark an `__init__` as one that pydantic need not call, as it marks its own; without the mark it is slower."""
    function.__pydantic_base_init__ = True


def has_base_init(cls: type[BaseModel]) -> bool:
    """True if no class has an `__init__` of its own below the one that was marked."""
    return bool(getattr(cls.__init__, "__pydantic_base_init__", False))


# -- classes -----------------------------------------------------------------------------------------------------------


def subclassed(cls: type[Any], bases: tuple[type[Any], ...], members: dict[str, Any]) -> type[Any]:
    """Make a subclass of a model that shares the fields and the validator of `cls`, under the same name.

    This goes past pydantic's metaclass, which would build a model again and announce it. That metaclass is an ABCMeta.
    If it becomes another one, `type` makes the class.
    """
    kind = type(cls)
    make: Any = ABCMeta.__new__ if issubclass(kind, ABCMeta) else type.__new__
    made: type[Any] = make(kind, cls.__name__, bases, members)
    return made


# -- instances ---------------------------------------------------------------------------------------------------------


def _setter(name: str) -> Callable[[Any, Any], None]:
    found: Callable[[Any, Any], None] | None = getattr(vars(BaseModel).get(name), "__set__", None)
    return found or (lambda made, value: object.__setattr__(made, name, value))


# Set a model's slots through these: object.__setattr__ looks each up by its name, a third of the time of making an
# instance. It is used for a slot that pydantic does not have.
put_values, put_fields_set, put_extra, put_private = map(
    _setter, ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)
