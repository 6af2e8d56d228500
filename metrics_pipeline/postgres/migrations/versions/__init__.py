"""One module per revision. A released revision is never edited, and imports nothing that may change after it."""
