"""Graphs: the float dialect that capture makes, the integer dialect that lower makes, and their meaning."""
