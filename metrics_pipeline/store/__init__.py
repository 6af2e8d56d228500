"""Our stored data: publishing a day, the ledger, and every way to read what is stored."""
