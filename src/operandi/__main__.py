"""``python -m operandi``: the command line."""

from operandi.cli import main

main()
