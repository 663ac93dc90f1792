"""The command line: a file for each command, and what they share. A command calls the library and prints its result."""
