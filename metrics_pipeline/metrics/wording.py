"""Numbers in sentences for people."""


def counted(number: int, one: str, many: str = "") -> str:
    """The number and what is counted, such as "1 day" or "1,234 days". many: default: `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
