"""The command line as a module: ``torchrun -m xcrossrec`` starts it in several processes."""

from xcrossrec.cli import main

main()
