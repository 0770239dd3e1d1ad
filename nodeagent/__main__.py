"""`python -m nodeagent` is the same as the installed `nodeagent`."""

from nodeagent.cli import main

main()
