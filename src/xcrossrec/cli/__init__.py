"""Command line of xcrossrec."""


def main() -> None:
    """Run the command line."""
