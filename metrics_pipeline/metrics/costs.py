"""From the text of a sum of costs to whole nano-dollars, and what PostgreSQL calls costs that are no number."""

import polars as pl

#: How PostgreSQL writes the values of numeric that are no number.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")

#: A fingerprint keeps its cost modulo this, as the number nearest to 0: that of every day but of 5 * 10^27 USD and more
#: is the cost itself. A numeric may have 131,072 digits, and no ledger should keep those.
FINGERPRINT_MODULUS_NANO_USD = 10**37

# Of less than 10^19 USD each, Int128 adds up ten thousand million sums.
_LIMIT_NANO_USD = 10**28


def nano_usd(cost_usd: pl.Expr) -> pl.Expr:
    """Numeric's text as Int128 nano-dollars; NULL for what is no number, has over nine places, or is 10^19 or more.

    A sum has as many places as the finest of its summands, so one of nine is made of whole nano-dollars only.
    """
    # find() counts from 0: behind a point at position p of n bytes stand n - p - 1 digits.
    places = cost_usd.str.len_bytes().cast(pl.Int64) - cost_usd.str.find(".", literal=True) - 1
    # The unscaled number of a decimal with nine places is its count of nano-dollars.
    unscaled = cost_usd.cast(pl.Decimal(38, 9), strict=False).to_physical()
    return pl.when((places.fill_null(0) <= 9) & (unscaled.abs() < _LIMIT_NANO_USD)).then(unscaled)


def fingerprint_cost(nano_usd: int) -> int:
    """A number of nano-dollars as a fingerprint keeps it."""
    half = FINGERPRINT_MODULUS_NANO_USD // 2
    return (nano_usd + half) % FINGERPRINT_MODULUS_NANO_USD - half
