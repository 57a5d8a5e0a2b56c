"""The command line: one script per subcommand of `vqlm`."""
