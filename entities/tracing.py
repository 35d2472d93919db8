"""placeholder"""


def trace_id() -> str:
    """Placeholder"""
    return ""
