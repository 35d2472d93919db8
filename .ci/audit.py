"""Known vulnerabilities of what is installed, by pip-audit: `make audit`.

Fails for a vulnerability, and for anything that goes wrong, except one thing: where the vulnerability service cannot be
reached (no network, a mirror that carries no such data) nothing can be checked. That is said, loudly, and does not
fail, unless PERDURE_AUDIT_STRICT=1: a CI that never reaches it would be green for ever. pip-audit itself calls packages
that it could not look up "skipped" and then finds no vulnerability.
"""

import json
import os
import subprocess
import sys
from typing import Any

OWN = "perdure"
STRICT = "PERDURE_AUDIT_STRICT"
_UNREACHABLE = ("ConnectionError", "ServiceError", "Max retries", "timed out", "NameResolution", "ProxyError")


def judge(output: str, complaints: str, *, is_strict: bool = False) -> tuple[int, list[str]]:
    """Exit status and what to say, from what pip-audit wrote. `is_strict`: not to have checked is a failure."""
    try:
        found: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        if any(word in complaints for word in _UNREACHABLE):
            return int(is_strict), ["NOT CHECKED: the vulnerability service cannot be reached from here"]
        return 1, ["pip-audit failed:", complaints.strip()[-2_000:]]
    others = [one for one in found if one["name"] != OWN]
    unknown = [one["name"] for one in others if "skip_reason" in one]
    lines = [
        f"{one['name']} {one['version']}: {hole['id']}, fixed in {', '.join(hole['fix_versions']) or 'no release'}"
        for one in others
        for hole in one.get("vulns", ())
    ]
    if lines:
        return 1, lines
    if len(unknown) == len(others):
        return int(is_strict), ["NOT CHECKED: the package index here knows nothing of vulnerabilities"]
    if unknown:
        return 1, [f"could not be looked up: {', '.join(unknown)}"]
    return 0, [f"no known vulnerability in {len(others)} packages"]


def main() -> int:
    """Run it on the environment that runs this."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    status, lines = judge(ran.stdout, ran.stderr, is_strict=os.environ.get(STRICT, "") not in {"", "0"})
    print("\n".join(lines))  # noqa: T201 - a program for the terminal
    return status


if __name__ == "__main__":
    sys.exit(main())
