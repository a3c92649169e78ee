"""Small Spark SQL expressions that rules are written with."""

KEEP = ""
"""The reason of a kept pair."""


def quoted(text: str) -> str:
    """Return text as a string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def double(number: float) -> str:
    """Return a number as a double, to the last bit."""
    return f"double('{number!r}')"


def unknown_value(value: str) -> str:
    """Return whether a number says nothing."""
    return f"({value} is null or isnan({value}))"


def compared(value: str, operator: str, number: float) -> str:
    """Return the comparison of a column with a number, which is taken as float32 where the column is one."""
    as_float = f"{value} {operator} cast({double(number)} as float)"
    return f"if(typeof({value}) = 'float', {as_float}, {value} {operator} {double(number)})"


def choice(subject: str, results: dict[str, str], otherwise: str) -> str:
    """Return the result for what `subject` is equal to, or else `otherwise`."""
    whens = " ".join(f"when {quoted(one)} then {result}" for one, result in sorted(results.items()))
    return f"case {subject} {whens} else {otherwise} end" if results else otherwise
