"""How much of the host's kernel a sandbox can reach, and how much of it one command really used (docs/surface.md)."""
