"""The control protocol's Python side: frames, messages, and the client that every engine uses."""
