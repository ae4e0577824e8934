"""One thin file per subcommand, and terminal.py: all of rich. Nothing heavy is imported at module level."""
