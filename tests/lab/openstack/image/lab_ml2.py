"""ML2 mechanism driver for hosts that switch nothing: binds every port at once.

Only for hosts named fake-* / broken-*, so that a real agent on a real host is
never shadowed. Ports come out ACTIVE because no agent will ever report them up.
"""

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class LabFakeMechanismDriver(api.MechanismDriver):
    def initialize(self):
        pass

    @property
    def connectivity(self):
        return portbindings.CONNECTIVITY_L2

    def bind_port(self, context):
        if context.host.startswith(("fake-", "broken-")):
            for segment in context.segments_to_bind:
                context.set_binding(
                    segment[api.ID],
                    portbindings.VIF_TYPE_BRIDGE,
                    {portbindings.CAP_PORT_FILTER: False},
                    status=constants.PORT_STATUS_ACTIVE,
                )
                return
