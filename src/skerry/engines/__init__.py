"""The walls that a sandbox can be made of, one module each."""
