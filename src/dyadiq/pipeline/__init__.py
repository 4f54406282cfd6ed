"""A recipe to a finished run folder: stages in order, each cached by what it depends on."""
