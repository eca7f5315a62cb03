"""Generated code, contained: ``docs/sandbox.md`` says against what, and what not."""

from tabom.sandbox.sandbox import Limits, Outcome, Sandbox, check_sandbox

__all__ = ["Limits", "Outcome", "Sandbox", "check_sandbox"]
