"""Leases a port, finds it and releases it, by the client that is generated from the OpenAPI document."""
import os

from styxy_client import AuthenticatedClient
from styxy_client.api.default import allocate, check, list_, release
from styxy_client.models import Allocate, Granted, Released, Refused

client = AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["TOKEN"])
granted = allocate.sync(client=client, body=Allocate(service_type="dev", service_name="web", project_path="/shop"))
assert isinstance(granted, Granted), granted
leases = list_.sync(client=client, project_path="/shop")
assert [(lease.port, lease.lease_id) for lease in leases.leases] == [(granted.port, granted.lease_id)], leases
assert check.sync(granted.port, client=client).available is False
released = release.sync(granted.lease_id, client=client)
assert isinstance(released, Released) and released.port == granted.port, released
refused = release.sync(granted.lease_id, client=client)
assert isinstance(refused, Refused) and refused.code == "NoSuchLease", refused
print("the Python client leased port", granted.port)
