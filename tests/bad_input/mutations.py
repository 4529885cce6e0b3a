"""Ways to spoil what programs write: bytes, JSON and ONNX models."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as member
from typing import Any, TypeVar

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

Draw = Any  # what hypothesis hands to a composite strategy
Good = TypeVar("Good")

_INTEGERS = (0, 1, -1, 2, 3, 7, 255, -(2**31), 2**31 - 1, 2**32, -(2**63), 2**63 - 1)
_FLOATS = (0.0, -1.0, 1e-45, 3e38, math.inf, -math.inf, math.nan)
_TEXTS = ("", " ", ".", "..", "../x", "\0", "/etc/passwd", "[/bold]", "é\u202e", "a/b:0", "n" * 300, "c1/lowrank_0",
          "ai.onnx", "com.microsoft", "SAME_UPPER", "location", "offset", "-1", "Imaginary", "If", "Conv")  # fmt: skip

INTEGERS = st.sampled_from(_INTEGERS)
FLOATS = st.sampled_from(_FLOATS)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | st.sampled_from([*_TEXTS, 10**400]),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(_TEXTS), values, max_size=2),
    max_leaves=3,
)


@dataclass(frozen=True)
class Spoiled:
    """What has become of a good file.

    Attributes:
        name: of the good one.
        content: what it holds now; too long to be shown.
    """

    name: str
    content: bytes = member(repr=False)


def spoiled(files: Mapping[str, Good], how: Callable[[Good], st.SearchStrategy[bytes]]) -> st.SearchStrategy[Spoiled]:
    """One of the files, spoiled in one of the ways below."""
    names = st.sampled_from(sorted(files))
    return names.flatmap(lambda name: how(files[name]).map(lambda content: Spoiled(name, content)))


@st.composite
def spoiled_bytes(draw: Draw, content: bytes) -> bytes:
    """Bytes with some of them changed, cut off, put in or repeated; often where headers are."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)) | st.integers(0, min(len(content), 200)))
        put = draw(st.binary(max_size=4))
        content = draw(
            st.sampled_from(
                [
                    content[:place],
                    content[:place] + put + content[place + len(put) :],
                    content[:place] + put + content[place:],
                    content[:place] + content[place // 2 :],
                    content[:place] + bytes(4) + content[place + 4 :],
                ]
            )
        )
    return content


@st.composite
def spoiled_json(draw: Draw, text: str) -> bytes:
    """JSON with one value replaced, left out or put in; or text that may be no JSON any more."""
    if draw(st.integers(0, 4)) == 0:
        return draw(spoiled_bytes(text.encode()))
    found = json.loads(text)
    places = list(_places(found))
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    match draw(st.sampled_from(["replace", "replace", "remove", "repeat", "whole"])):
        case "replace":
            holder[key] = draw(JSON)
        case "remove":
            del holder[key]
        case "repeat" if isinstance(holder, list):
            holder.append(holder[key])
        case "whole":
            found = draw(JSON)
    return json.dumps(found).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or object with each of its indices or keys."""
    if isinstance(value, list | dict):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)


@st.composite
def spoiled_model(draw: Draw, model: onnx.ModelProto) -> bytes:
    """A model with one to three of its fields spoiled, whichever they are."""
    spoiled = onnx.ModelProto()
    spoiled.CopyFrom(model)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        messages = list(_messages(spoiled))
        _spoil(draw, messages[draw(st.integers(0, len(messages) - 1))], _names(spoiled))
    return spoiled.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for each, value in message.ListFields():
        if each.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if each.is_repeated else [value]:
                yield from _messages(inner)


def _names(model: onnx.ModelProto) -> list[str]:
    """Names of tensors and operators."""
    return sorted({name for node in model.graph.node for name in [*node.input, *node.output, node.op_type]})


def _spoil(draw: Draw, message: Message, names: Sequence[str]) -> None:
    """Change one field of a message, mostly one that is set."""
    present = [field for field, _ in message.ListFields()]
    fields = present if present and draw(st.integers(0, 9)) else list(message.DESCRIPTOR.fields)
    field = fields[draw(st.integers(0, len(fields) - 1))]
    if field.is_repeated:
        _spoil_repeated(draw, getattr(message, field.name), field, names)
    elif field.type == FieldDescriptor.TYPE_MESSAGE or draw(st.integers(0, 9)) == 0:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, draw(_values(field, names, getattr(message, field.name))))


def _spoil_repeated(draw: Draw, values: Any, field: FieldDescriptor, names: Sequence[str]) -> None:
    place = draw(st.integers(0, max(0, len(values) - 1)))
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    match draw(st.sampled_from(["change", "remove", "repeat", "add", "turn"])):
        case "change" if values and not is_message:
            values[place] = draw(_values(field, names, values[place]))
        case "remove" if values:
            del values[place]
        case "repeat" if values:
            values.append(values[place])
        case "add":
            values.add() if is_message else values.append(draw(_values(field, names, None)))
        case "turn" if values:
            kept = [type(each).FromString(each.SerializeToString()) if is_message else each for each in values]
            del values[:]
            values.extend([*kept[place:], *kept[:place]])


def _values(field: FieldDescriptor, names: Sequence[str], old: Any) -> st.SearchStrategy[Any]:
    """What a field can hold."""
    match field.type:
        case FieldDescriptor.TYPE_ENUM:
            return st.sampled_from([value.number for value in field.enum_type.values])
        case FieldDescriptor.TYPE_INT32:
            return st.integers(-1, 25) | st.sampled_from([each for each in _INTEGERS if abs(each) < 2**31])
        case FieldDescriptor.TYPE_INT64:
            return st.integers(-1, 25) | INTEGERS
        case FieldDescriptor.TYPE_UINT64:
            return st.sampled_from([each for each in _INTEGERS if each >= 0])
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return FLOATS
        case FieldDescriptor.TYPE_BYTES:
            filled = FLOATS.map(lambda number: struct.pack("<f", number) * (len(old or b"") // 4))
            return spoiled_bytes(old or b"") | filled | st.sampled_from(_TEXTS).map(str.encode)
    return st.sampled_from([*names, *_TEXTS])
