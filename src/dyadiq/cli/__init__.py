"""The command line: argv, printing, progress bars and exit codes; nothing else knows of them."""
