"""The entry point of the `ventifs` command: it handles signals before any slow import."""

from ventifs.cli import interruption


def main() -> None:
    """Run the command line, and exit."""
    interruption.install()
    from ventifs.cli.program import run  # slow: a signal may arrive; see docs/performance.md

    run()


if __name__ == "__main__":
    main()
