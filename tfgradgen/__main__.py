"""python -m tfgradgen"""

from tfgradgen.cli.commands import main

if __name__ == "__main__":
    main()
