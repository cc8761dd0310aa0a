"""Entry point of `python -m tfgradgen` and of the command `tfgradgen`."""


def main() -> None:
    """Run the command `tfgradgen`."""
    try:
        from tfgradgen.cli.commands import main as run_command
    except KeyboardInterrupt:  # during the import, so there is nothing to save
        raise SystemExit(130) from None
    run_command()


if __name__ == "__main__":
    main()
