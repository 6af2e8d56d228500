"""`make audit`: asks pip-audit whether a version in constraints.txt is known to be vulnerable."""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_COMMAND = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]


def main(constraints: Path = CONSTRAINTS) -> int:
    """Prints the verdict and returns the exit code: 1 only for a vulnerability that is known."""
    done = subprocess.run([*_COMMAND, "--requirement", str(constraints)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pip-audit ended with {done.returncode}: {done.stderr}")
    code, verdict = judge(done.stdout, done.stderr)
    print(verdict)
    return code


def judge(report: str, messages: str) -> tuple[int, str]:
    """The exit code and the verdict on what pip-audit wrote to stdout and to stderr.

    Without the vulnerability service it exits with 1 as if it had found something, or with 0 and every version left
    out: neither is a finding, and neither is a clean bill.
    """
    try:
        dependencies = json.loads(report)["dependencies"]
    except ValueError:
        lines = messages.strip().splitlines() or ["pip-audit said nothing"]
        return 0, f"The dependencies could not be audited: {lines[-1]}"
    left_out = [dependency["skip_reason"] for dependency in dependencies if "skip_reason" in dependency]
    found = [
        f"{dependency['name']} {dependency['version']}: {vulnerability['id']}, "
        f"fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for dependency in dependencies
        for vulnerability in dependency.get("vulns", [])
    ]
    verdict = found or ["No known vulnerability"]
    verdict.append(f"{len(dependencies) - len(left_out)} of {len(dependencies)} dependencies were audited.")
    if left_out:
        verdict.append(f"{len(left_out)} could not be audited: {left_out[0]}{', …' if len(left_out) > 1 else ''}")
    if len(left_out) == len(dependencies):
        del verdict[0]
    return int(bool(found)), "\n".join(verdict)


if __name__ == "__main__":
    sys.exit(main())
