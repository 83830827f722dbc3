"""What the commands are made of; a folder for each command that has parts, and what several share."""
