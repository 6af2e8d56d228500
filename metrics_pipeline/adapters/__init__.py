"""Views that give the tables of other products the names and types that we read. Printed for their owner, never run."""
