"""What we keep: publishing a day, the ledger, and every way to read what is stored."""
