"""Which command runs, and how it ends: an error becomes one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from onnx_lowrank import interruption
from onnx_lowrank.cli.help import ALL_OPTIONS, Option, help_all
from onnx_lowrank.cli.messages import flags, with_flags
from onnx_lowrank.cli.presets import preset_rows
from onnx_lowrank.cli.standard_output import flushed
from onnx_lowrank.errors import LowRankError, VerificationError, did_you_mean
from onnx_lowrank.runtime.library import silence

_FIXABLE, _NOT_VERIFIED, INTERRUPTED = 1, 3, 130
_CONVERT = ""  # name of the unnamed command inside a `Program`


class Command(click.Command):
    """A command whose errors are one line, and whose help comes in two lengths."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.append(help_all())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words, with the values of options that have none after them filled in."""
        options = [option for option in self.params if isinstance(option, Option) and option.bare is not None]
        bare = {name: option.bare for option in options for name in option.opts}
        words: list[str] = []
        for word, following in zip(args, [*args[1:], "--"], strict=False):
            value = bare.get(word) if following.startswith("--") else None
            words += [word] if value is None else [word, value]
        try:
            return super().parse_args(ctx, words)
        except click.NoSuchOption as error:  # click's own question differs from release to release
            known = [name for option in self.get_params(ctx) for name in option.opts if name.startswith("--")]
            question = did_you_mean(error.option_name, known)
            raise click.UsageError(f"No such option '{error.option_name}'{question}", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run; errors end the process with their exit code."""
        interruption.begin()
        with _exit_codes(flags(ctx), debug=ctx.params["debug"]), flushed():
            silence()
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the rows of the options, then values that have no room there, and what presets stand for."""
        super().format_options(ctx, formatter)
        options = [option for option in self.params if isinstance(option, Option) and option.shown(ctx)]
        values = [(option.opts[0], option.values) for option in options if option.values]
        if values and ALL_OPTIONS in ctx.meta:
            with formatter.section("Values"):
                formatter.write_dl(values)
        if any(option.name == "preset_name" for option in options):
            with formatter.section("Presets: (pixel * scale - mean) / std, pixels from 0 to 255"):
                formatter.write_dl(preset_rows())


class _Unnamed(click.Context):
    """The context of a command that is called without its name."""

    @property
    def command_path(self) -> str:
        return super().command_path.rstrip()


class MainCommand(Command):
    """The command that needs no name; its help lists the others."""

    context_class = _Unnamed

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the rows of the options, then those of the other commands."""
        super().format_options(ctx, formatter)
        if ctx.parent is not None and isinstance(ctx.parent.command, click.Group):
            with formatter.section("Commands"):
                others = ctx.parent.command.commands
                shown = {name: each for name, each in others.items() if ALL_OPTIONS in ctx.meta or not each.hidden}
                formatter.write_dl([(name, command.get_short_help_str(66)) for name, command in shown.items()])


class Program(click.Group):
    """Named commands, and one that runs when the first word names none of them."""

    def __init__(self, default: click.Command, commands: Iterable[click.Command]) -> None:
        super().__init__(commands=list(commands), add_help_option=False, context_settings={"show_default": True})
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the default command where the user left it out; no words at all ask for help."""
        words = args or ["--help"]
        if words[0] in self.commands:
            return super().parse_args(ctx, words)
        self._check_no_command_was_meant(ctx, words[0])
        return super().parse_args(ctx, [_CONVERT, *words])

    def _check_no_command_was_meant(self, ctx: click.Context, word: str) -> None:
        """Raise a usage error for a word that is nearly a command, and neither an option nor like a file's name."""
        if ctx.resilient_parsing or word.startswith("-") or "." in word or "/" in word or os.path.lexists(word):
            return
        if question := did_you_mean(word, self.commands):
            raise click.UsageError(f"no command '{word}', nor a file of that name{question}", ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Look up a command."""
        return self._default if cmd_name == _CONVERT else super().get_command(ctx, cmd_name)


@contextmanager
def _exit_codes(words: dict[str, str], *, debug: bool) -> Iterator[None]:
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
        raise  # click ends with these
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, interruption.Interrupted) else signal.SIGINT
        with interruption.last_line() as is_wanted:
            if is_wanted:
                _end(interruption.message(number, str(error)), 128 + number, debug=debug)
        sys.exit(128 + number)
    except VerificationError as error:
        _end(with_flags(str(error), words), _NOT_VERIFIED, debug=debug)
    except LowRankError as error:
        _end(with_flags(str(error), words), _FIXABLE, debug=debug)
    except MemoryError as error:
        _end(f"out of memory ({error}): lower --batch-size, --samples or --input-shapes", _FIXABLE, debug=debug)
    except Exception as error:  # a bug, which --debug is for
        text = f"unexpected {type(error).__name__}: {error}"
        _end(text if debug else f"{text}: run again with --debug and report what it says", _FIXABLE, debug=debug)


def _end(message: str, code: int, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    # Messages of onnxruntime and protobuf that are kept inside ours may have several lines.
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)
