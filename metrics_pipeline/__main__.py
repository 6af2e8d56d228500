"""The start of the process of `metrics-pipeline`, before anything is imported."""

import gc
import sys


def main() -> None:
    """Imports the command line and runs it."""
    # What is imported stays. Looking for garbage among it takes a quarter of the time of importing it.
    gc.disable()
    try:
        from metrics_pipeline.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)  # as the commands end after Ctrl-C

    gc.freeze()
    gc.enable()
    run()


if __name__ == "__main__":
    main()
