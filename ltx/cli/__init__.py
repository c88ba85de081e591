"""The commands: parse the settings, call the package, print the result."""
