"""How MetaApi's provisioning behaves where nobody outside knows; each field a stated choice."""

from dataclasses import dataclass
from typing import Literal

from brokerd.sandbox.facts import Reliability


@dataclass(slots=True, kw_only=True)
class ProvisioningRules:
    """What the service does; the control may change it while it runs.

    Durations are the real ones; `time_scale` shortens all of them, the lock among them. Creating
    answers 202 at least `detection_polls` times and for `detection_seconds`; `retry_after` is the
    form of the header that goes with it. After `failures_before_lock` failed checks of one login's
    credentials its validation is locked for `lock_seconds`; 0 never locks. `top_up_status` and
    `top_up_message` are what a user who must pay something in is told. Without `grants_quotas` a
    wish for more is only noted. `default_reliability` is that of accounts created without one.
    """

    deploy_seconds: float = 90.0
    undeploy_seconds: float = 20.0
    delete_seconds: float = 10.0
    detection_seconds: float = 30.0
    detection_polls: int = 1
    retry_after: Literal["seconds", "date", "none"] = "seconds"
    retry_after_seconds: float = 60.0
    failures_before_lock: int = 3
    lock_seconds: float = 3600.0
    may_delete_deployed: bool = True
    top_up_status: Literal[400, 402, 403] = 403
    top_up_message: str = (
        "Your account balance is insufficient. Please top up your account to continue."
    )
    grants_quotas: bool = True
    default_reliability: Reliability = "high"
    time_scale: float = 0.02

    def scaled(self, seconds: float) -> float:
        """Return how long it takes here."""
        return seconds * self.time_scale
