"""From the text of a sum of costs to whole nano-dollars, and what PostgreSQL calls costs that are no number."""

import polars as pl

#: How PostgreSQL writes the values of numeric that are no number.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def nano_usd(cost_usd: pl.Expr) -> pl.Expr:
    """Numeric's text as Int128 nano-dollars; NULL for what is no number, has over nine places, or is 10^29 or more.

    A sum has as many places as the finest of its summands, so one of nine is made of whole nano-dollars only.
    """
    # find() counts from 0: behind a point at position p of n bytes stand n - p - 1 digits.
    places = cost_usd.str.len_bytes().cast(pl.Int64) - cost_usd.str.find(".", literal=True) - 1
    # The unscaled number of a decimal with nine places is its count of nano-dollars.
    return pl.when(places.fill_null(0) <= 9).then(cost_usd.cast(pl.Decimal(38, 9), strict=False).to_physical())
