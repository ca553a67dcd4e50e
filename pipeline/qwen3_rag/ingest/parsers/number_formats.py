"""How a spreadsheet shows a number: dates in ISO format, decimals, thousands separators, percent."""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Literal

__all__ = ["BUILT_IN", "shown"]

# Codes that a workbook uses by number only; 27 to 36 and 50 to 58 are dates of East Asian versions.
BUILT_IN = {
    1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 9: "0%", 10: "0.00%", 14: "m/d/yyyy", 15: "d-mmm-yy", 16: "d-mmm",
    17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm", 21: "h:mm:ss", 22: "m/d/yyyy h:mm", 37: "#,##0",
    38: "#,##0", 39: "#,##0.00", 40: "#,##0.00", 45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss",
    **dict.fromkeys([*range(27, 37), *range(50, 59)], "yyyy/m/d"),
}  # fmt: skip
LITERAL = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]', re.IGNORECASE)
FIXED = re.compile(r"[#,]*0(?:\.(0+))?%?")
LARGEST = 1e15  # of larger numbers not all digits are known
LONGEST = 255  # characters of a code
DAYS = 2_958_466  # the last is 31 December 9999


@dataclass(frozen=True)
class _Format:
    """What a code says: whether a number is a date or a duration, else its decimals and signs."""

    kind: Literal["general", "fixed", "date", "duration"]
    specification: str = ""
    percent: bool = False


@lru_cache(1024)
def _format(code: str) -> _Format:
    code = LITERAL.sub("", code[:LONGEST]).partition(";")[0].strip().lower()
    if code.startswith("["):
        return _Format("duration")
    if re.search("[ymdhs]", code):
        return _Format("date")
    fixed = FIXED.fullmatch(code)
    if fixed is None:
        return _Format("general")
    grouping = "," if "," in code else ""
    return _Format("fixed", f"{grouping}.{len(fixed[1] or '')}f", code.endswith("%"))


def shown(number: float, code: str, since_1904: bool = False) -> str:
    """A number as a cell with this format code shows it."""
    format_ = _format(code)
    if format_.kind == "duration" and abs(number) < DAYS:
        seconds = round(number * 86_400)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if format_.kind == "date" and 0 <= number < DAYS:
        return _date(number, since_1904)
    if format_.kind == "fixed" and abs(number) < LARGEST:
        return f"{number * 100:{format_.specification}}%" if format_.percent else f"{number:{format_.specification}}"
    return f"{number:.15g}"


def _date(number: float, since_1904: bool) -> str:
    if number < 1 and not since_1904:
        return _moment(datetime(1900, 1, 1), number).time().isoformat("seconds")
    # Excel's year 1900 has a 29 February.
    first = datetime(1904, 1, 1) if since_1904 else datetime(1899, 12, 30 if number >= 60 else 31)
    try:
        moment = _moment(first, number)
    except OverflowError:
        return f"{number:.15g}"
    return moment.date().isoformat() if moment.time() == time.min else moment.isoformat(timespec="seconds")


def _moment(first: datetime, days: float) -> datetime:
    return first + timedelta(seconds=round(days * 86_400))
