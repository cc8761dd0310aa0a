"""python -m tfgradgen"""


def main() -> None:
    """What the command `tfgradgen` calls."""
    try:
        from tfgradgen.cli.commands import main as run_command
    except KeyboardInterrupt:  # before there is anything to keep
        raise SystemExit(130) from None
    run_command()


if __name__ == "__main__":
    main()
