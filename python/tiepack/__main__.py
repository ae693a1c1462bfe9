"""The command line: `python -m tiepack` and `tiepack`."""
import sys

from tiepack import _native


def main() -> None:
    try:
        code = _native.main(["tiepack", *sys.argv[1:]])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
