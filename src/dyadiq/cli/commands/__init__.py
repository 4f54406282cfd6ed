"""One file for each group of commands; `cli.app` lists them. Heavy imports belong inside the functions."""
