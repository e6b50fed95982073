"""What all services of one MetaApi share: its users, rules, limits and conditions over a broker."""

from dataclasses import dataclass, field, replace

from brokerd.sandbox.bill import Bill, Prices
from brokerd.sandbox.conditions import Conditions
from brokerd.sandbox.credits import Credits
from brokerd.sandbox.faults import Faults
from brokerd.sandbox.limits import Limits
from brokerd.sandbox.provisioner import Provisioner
from brokerd.sandbox.rates import RequestRates
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.truth import Broker
from brokerd.sandbox.users import Users


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How the service begins; the control may change all but the first user's token."""

    token: str = field(repr=False)
    rules: ProvisioningRules = field(default_factory=ProvisioningRules)
    prices: Prices = field(default_factory=Prices)
    limits: Limits = field(default_factory=Limits)


class MetaApiState:
    """The service behind every cover: REST, stream, control, and the one in process."""

    def __init__(self, broker: Broker, *, faults: Faults, settings: ServiceSettings) -> None:
        self.broker = broker
        self.faults = faults
        self.users = Users(token=settings.token)
        self.limits = replace(settings.limits)
        self.conditions = Conditions()
        self.bill = Bill(broker, prices=settings.prices)
        self.provisioner = Provisioner(
            broker, faults=faults, bill=self.bill, rules=replace(settings.rules)
        )
        self.credits = Credits(broker, limits=self.limits)
        self.rates = RequestRates(broker, limits=self.limits)
