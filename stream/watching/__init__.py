"""What an engine shows: metrics and their HTTP side, progress, the summary of a run."""
