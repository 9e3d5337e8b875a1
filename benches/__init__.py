"""Native, Skerry and any peers, side by side in one run: `python3 -m benches --help`."""
