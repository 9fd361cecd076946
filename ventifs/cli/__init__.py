"""The command line: all printing, prompts, progress and exit codes."""
