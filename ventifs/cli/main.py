"""Where the `ventifs` command starts: it minds signals before anything that takes time."""

from ventifs.cli import interruption


def main() -> None:
    """Run the command line, and exit."""
    interruption.install()
    from ventifs.cli.program import run  # 100 ms, in which a signal may come already

    run()


if __name__ == "__main__":
    main()
