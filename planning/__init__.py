"""From a folder to a plan: what the collection is, how fast the machine is, and what that allows within the minutes."""
