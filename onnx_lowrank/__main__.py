"""``onnx-lowrank`` and ``python -m onnx_lowrank`` are the command line."""

from onnx_lowrank import interruption


def main() -> None:
    """Run the command line; an interruption while it is still being imported, which takes a second, is one line too."""
    interruption.install()
    from onnx_lowrank.cli import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
