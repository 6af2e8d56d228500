"""Pure computation: frames, dates and numbers in and out. No I/O, no clock, no Dagster."""
