"""Plain data and arithmetic that everything else stands on; imports nothing from the package, and no torch."""
