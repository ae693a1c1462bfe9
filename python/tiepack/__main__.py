"""The command line: `python -m tiepack` and `tiepack`."""
import signal
import sys

from tiepack import _native


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nobody here waits for a KeyboardInterrupt
    sys.exit(_native.main(["tiepack", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
