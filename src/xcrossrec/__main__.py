"""The command line as a program, and as a module, which ``torchrun -m xcrossrec`` starts in several processes."""

import sys

from xcrossrec.exceptions import UnsupportedSystemError

try:
    from xcrossrec.cli import main
except UnsupportedSystemError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
