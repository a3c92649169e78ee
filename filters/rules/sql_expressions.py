"""Small Spark SQL expressions that rules are composed of."""

KEEP = ""
"""The reason of a kept pair."""


def string_literal(text: str) -> str:
    """Return text as a string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def double_literal(number: float) -> str:
    """Return a number as a double literal, exact to the last bit."""
    return f"double('{number!r}')"


def is_unknown(value: str) -> str:
    """Return the condition that a number is null or NaN."""
    return f"({value} is null or isnan({value}))"


def comparison(value: str, operator: str, number: float) -> str:
    """Return the comparison of a column with a number, which is cast to float32 where the column is float32."""
    as_float = f"{value} {operator} cast({double_literal(number)} as float)"
    return f"if(typeof({value}) = 'float', {as_float}, {value} {operator} {double_literal(number)})"


def case_expression(subject: str, results: dict[str, str], otherwise: str) -> str:
    """Return an expression for the result whose key equals `subject`, or `otherwise`."""
    whens = " ".join(f"when {string_literal(key)} then {result}" for key, result in sorted(results.items()))
    return f"case {subject} {whens} else {otherwise} end" if results else otherwise
