"""The policy at work: an agent's own token, and an agent that nothing guards."""

import json

import urllib3

from integration.fleet import Fleet
from nodeagent import names
from nodeagent.names import Reason

# Runs in an agent's container: with its token, its certificates, and what it has of Python.
LABEL = """
import json, ssl, sys, urllib.error, urllib.request
where, label = sys.argv[1:]
account = "/var/run/secrets/kubernetes.io/serviceaccount"
request = urllib.request.Request(
    "https://kubernetes.default.svc/api/v1/nodes/" + where + "?dryRun=All",
    json.dumps({"metadata": {"labels": {label: "true"}}}).encode(),
    {
        "Authorization": "Bearer " + open(account + "/token").read(),
        "Content-Type": "application/merge-patch+json",
    },
    method="PATCH",
)
try:
    answer = urllib.request.urlopen(
        request, context=ssl.create_default_context(cafile=account + "/ca.crt")
    )
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""


def labelled(fleet: Fleet, node: str, label: str) -> tuple[int, str]:
    """Label a node with the token of node1's agent, without effect."""
    status, text = json.loads(fleet.exec("node1", "python3", "-c", LABEL, node, label))
    return status, text


def test_the_token_of_an_agent_is_good_for_its_own_node_alone(fleet: Fleet) -> None:
    ours = f"{names.LABEL_PROFILE_PREFIX}other"
    assert labelled(fleet, "node1", ours)[0] == 200
    for node, label in (("node2", ours), ("node1", "team"), ("node1/status", "team")):
        status, text = labelled(fleet, node, label)
        assert (status, "ValidatingAdmissionPolicy 'nodeagent'" in text) == (403, True), text


def test_an_agent_that_no_policy_guards_says_so_and_its_node_stays_ready(fleet: Fleet) -> None:
    def guarded() -> bool:
        metrics = urllib3.request("GET", f"{fleet.address('node1')}/metrics", timeout=5).data
        return b'nodeagent_check{check="policy"} 1.0' in metrics

    reason = str(Reason.POLICY_NOT_ENFORCED)
    assert guarded()
    fleet.kubectl("delete", "validatingadmissionpolicybinding", "nodeagent")
    try:
        fleet.renew("node1")
        fleet.until("told: nothing guards it", lambda: not guarded())
        fleet.until("told: by the condition", lambda: reason in fleet.condition("node1")["message"])
        assert reason in fleet.exec("node1", "nodeagent", "status")
        assert fleet.is_ready("node1", fleet.first)
    finally:
        fleet.apply()
    fleet.renew("node1")
    fleet.until("told: it is guarded", guarded)
