"""Parts of the commands: a folder per command that has several, and modules that several commands share."""
