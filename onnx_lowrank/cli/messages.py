"""Messages of the library in the words of the command line: flags instead of Python names.

The library names a setting in backticks, with or without a value. The command line shows the flag::

    lower `speedup`                              lower --speedup
    use `provider='cpu'`                         use --provider cpu
    pass `input_shapes={'x': (1,3,224,224)}`     pass --input-shapes x:1,3,224,224
    `constant_inputs={'a': 'FILE', 'b': 1}`      --input a=FILE --input b=1
    see their names with `inspect`               see their names with 'onnx-lowrank inspect'
"""

from __future__ import annotations

import re

import click

# Python names of what no option is named after.
_OTHER_WORDS = {"inspect": "'onnx-lowrank inspect'", "RankPlan.to_json": "--save-plan"}
_SETTING = re.compile(r"`([A-Za-z_.]+)(?:=([^`]*))?`")
_ITEM = re.compile(r"'(?P<key>.*)': (?P<value>.*)")
_BETWEEN_ITEMS = re.compile(r", (?=')")


def flags(ctx: click.Context) -> dict[str, str]:
    """Return the words of the command line by Python name: the options of all commands, and a few more.

    Options that turn something off (``--no-bench``) are left out: they mean the opposite of their setting.

    Args:
        ctx: context of the running command.
    """
    root = ctx.find_root().command
    commands = [root]
    if isinstance(root, click.Group):
        named = (root.get_command(ctx, name) for name in ("", *root.commands))  # "": the command without a name
        commands = [command for command in named if command is not None]
    options = [option for command in commands for option in command.params if isinstance(option, click.Option)]
    return {option.name: option.opts[0] for option in options if option.name and option.flag_value is not False} | (
        _OTHER_WORDS
    )


def with_flags(message: str, words: dict[str, str]) -> str:
    """Return a message of the library with flags in the place of the Python names in backticks.

    Args:
        message: the message; names that are not among ``words`` stay as they are.
        words: words of the command line by Python name, see `flags`.
    """

    def word(setting: re.Match[str]) -> str:
        name, value = setting.groups()
        if name not in words:
            return setting[0]
        values = [None] if value is None else _BETWEEN_ITEMS.split(value[1:-1]) if value.startswith("{") else [value]
        return " ".join(words[name] if each is None else f"{words[name]} {_value(each)}" for each in values)

    return _SETTING.sub(word, message)


def _value(text: str) -> str:
    """Return a Python value as an option takes it: an item of a mapping, a sequence, a string or a number."""
    if item := _ITEM.fullmatch(text):
        separator = ":" if item["value"].startswith("(") else "="
        return f"{item['key']}{separator}{_value(item['value'])}"
    return text.strip("()[]'").replace(", ", ",")
