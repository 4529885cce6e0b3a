"""Help in two lengths: ``--help`` shows what a newcomer needs, ``--help-all`` every option."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from onnx_lowrank.errors import did_you_mean
from onnx_lowrank.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

ALL_OPTIONS = "onnx_lowrank.all_options"  # in the meta of a context whose help is to show every option


class Option(click.Option):
    """An option with a row of its own in the help, its default at the end, and errors that say what was meant.

    ``--help`` may leave it out. The shell completes it all the same, unlike a hidden one of click.

    Args:
        advanced: show it with ``--help-all`` only.
        values: what it takes, where that does not fit its row; `Command` shows them below the options.
        bare: value of the option where none follows; None for an option that needs one. Unlike click's optional values,
            this leaves negative numbers to the option.
    """

    def __init__(
        self, *args: Any, advanced: bool = False, values: str = "", bare: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.advanced, self.values, self.bare = advanced, values, bare

    def shown(self, ctx: click.Context) -> bool:
        """Return whether the help that is asked for has the option."""
        return not self.advanced or ALL_OPTIONS in ctx.meta

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert what was given; where it is none of a few words, ask which of them was meant."""
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            if not (isinstance(self.type, click.Choice) and isinstance(value, str)):
                raise
            question = did_you_mean(value, map(str, self.type.choices))
            raise click.BadParameter(error.message.rstrip(".") + question, ctx, self) from error

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's row of the help, or None to leave it out."""
        record = super().get_help_record(ctx) if self.shown(ctx) else None
        return record and (record[0], f"{self.help}  [default: {self._default_text(ctx)}]")

    def _default_text(self, ctx: click.Context) -> str:
        if isinstance(self.show_default, str):
            return self.show_default
        default = self.get_default(ctx, call=False)
        if self.is_flag:
            return "off"
        if isinstance(default, float):
            return f"{default:g}"
        return str(default) if isinstance(default, str | int) else "none"  # click has several words for none


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Return a decorator as ``click.option`` does, for an `Option`."""
    return click.option(*names, cls=Option, **attributes)


def setting(flag: str, settings: type = Settings, **attributes: Any) -> Callable[[Function], Function]:
    """Return a decorator for an option with the default of the setting that it is named after.

    Args:
        flag: as in ``--rank-multiple``.
        settings: the dataclass that has the setting.
        attributes: of an `Option`.
    """
    name = flag.removeprefix("--").replace("-", "_")
    (default,) = (field.default for field in fields(settings) if field.name == name)
    return option(flag, default=default, **attributes)


def off_switch(flag: str, **attributes: Any) -> Callable[[Function], Function]:
    """Return a decorator for a flag that turns a setting off: ``--no-bench`` makes ``bench`` false."""
    name = flag.removeprefix("--no-").replace("-", "_")
    return option(flag, name, is_flag=True, flag_value=False, default=True, **attributes)


def help_all() -> click.Option:
    """Return the option that shows every option and ends."""

    def show(ctx: click.Context, _: click.Parameter, given: bool) -> None:
        if given and not ctx.resilient_parsing:
            ctx.meta[ALL_OPTIONS] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show every option and exit.",
    )
