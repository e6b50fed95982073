"""What all services of one MetaApi share: its users, rules, limits and conditions over a broker."""

from dataclasses import replace

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


class MetaApiState:
    """The service behind every cover: REST, stream, control, and the one in process."""

    def __init__(
        self,
        broker: Broker,
        *,
        faults: Faults,
        token: str,
        rules: ProvisioningRules,
        prices: Prices,
    ) -> None:
        self.broker = broker
        self.faults = faults
        self.users = Users(token=token)
        self.limits = Limits()
        self.conditions = Conditions()
        self.bill = Bill(broker, prices=prices)
        self.provisioner = Provisioner(broker, faults=faults, bill=self.bill, rules=replace(rules))
        self.credits = Credits(broker, limits=self.limits)
        self.rates = RequestRates(broker, limits=self.limits)
