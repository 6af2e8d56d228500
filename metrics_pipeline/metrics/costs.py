"""From the text of a cost to whole nano-dollars, and which costs are not that simple."""

import polars as pl

#: How PostgreSQL writes the values of numeric that are no number.
NOT_FINITE = ("NaN", "Infinity", "-Infinity")

# A point and ten digits have a digit before them: text up to this length is a number with nine places or fewer, or no
# number, and what is cast is regular.
_REGULAR_BYTES = len("0.123456789")


def parse_costs(costs: pl.Series) -> pl.DataFrame:
    """The costs of logs (String, numeric's text without trailing zeros) as three columns of the same height.

    cost_nano_usd: Int128; NULL unless the cost is regular. is_cost_irregular: finer than a nano-dollar or of 10^19 USD
    and more, which is left to the server's numeric. is_cost_not_finite: no number at all.
    """
    # The unscaled number of a decimal with nine places is its count of nano-dollars. 28 digits leave room to sum 10^10
    # of them in 128 bits; what has more digits becomes NULL.
    nano_usd = costs.cast(pl.Decimal(28, 9), strict=False).to_physical()
    frame = pl.DataFrame({"cost_usd": costs, "cost_nano_usd": nano_usd})
    # True of most batches, and twice as fast.
    if nano_usd.null_count() == costs.null_count() and not (costs.str.len_bytes() > _REGULAR_BYTES).any():
        return frame.select("cost_nano_usd", is_cost_irregular=pl.lit(False), is_cost_not_finite=pl.lit(False))
    cost = pl.col("cost_usd")
    # find() counts from 0: behind a point at position p of n bytes stand n - p - 1 digits.
    has_finer_digits = (cost.str.len_bytes().cast(pl.Int64) - cost.str.find(".", literal=True) > 10).fill_null(False)
    is_not_finite = cost.is_in(NOT_FINITE).fill_null(False)
    return frame.with_columns(pl.when(~has_finer_digits).then("cost_nano_usd").alias("cost_nano_usd")).select(
        "cost_nano_usd",
        is_cost_irregular=pl.col("cost_nano_usd").is_null() & cost.is_not_null() & ~is_not_finite,
        is_cost_not_finite=is_not_finite,
    )
