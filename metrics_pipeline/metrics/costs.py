"""Costs: from the text of a numeric to whole nano-dollars, and PostgreSQL's names for values that are not finite."""

import polars as pl

#: How PostgreSQL writes the numeric values that are not finite.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")

#: A fingerprint keeps its cost modulo this, as the residue nearest to 0: the cost itself for every day below 5 * 10^27
#: USD. A numeric may have 131,072 digits, which no ledger should keep.
FINGERPRINT_MODULUS_NANO_USD = 10**37

# 10^19 USD. Int128 holds the total of ten thousand million sums below it.
_LIMIT_NANO_USD = 10**28


def nano_usd(cost_usd: pl.Expr) -> pl.Expr:
    """A numeric's text as Int128 nano-dollars; NULL if not finite, of more than nine places, or of 10^19 USD or more.

    A sum has as many places as its finest summand, so a sum of up to nine places consists of whole nano-dollars only.
    """
    # find() counts from 0: n - p - 1 digits follow a point at position p of n bytes.
    places = cost_usd.str.len_bytes().cast(pl.Int64) - cost_usd.str.find(".", literal=True) - 1
    # The unscaled number of a decimal with nine places is its count of nano-dollars.
    unscaled = cost_usd.cast(pl.Decimal(38, 9), strict=False).to_physical()
    return pl.when((places.fill_null(0) <= 9) & (unscaled.abs() < _LIMIT_NANO_USD)).then(unscaled)


def fingerprint_cost(nano_usd: int) -> int:
    """The residue of a number of nano-dollars that a fingerprint keeps."""
    half = FINGERPRINT_MODULUS_NANO_USD // 2
    return (nano_usd + half) % FINGERPRINT_MODULUS_NANO_USD - half
