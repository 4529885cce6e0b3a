"""``onnx-lowrank`` and ``python -m onnx_lowrank`` are the command line."""

import sys


def main() -> None:
    """Run the command line; an interruption while it is still being imported is one line too."""
    try:
        from onnx_lowrank.cli import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted: nothing was written\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
