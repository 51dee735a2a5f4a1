"""What a run shows: metrics while it goes, and one page when it ends."""
