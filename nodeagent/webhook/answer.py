"""How a decision is told to the API server: an AdmissionReview that allows the pod."""

import base64
import json
from typing import Any, Final

from nodeagent.admission.decision import Decision

API_VERSION: Final = "admission.k8s.io/v1"
WARNING_LETTERS: Final = 256  # an API server cuts off what is longer


def encode(uid: str, decision: Decision) -> bytes:
    """Write the answer to the review of that uid."""
    response: dict[str, Any] = {
        "uid": uid,
        "allowed": True,
        "auditAnnotations": _audit(decision),
    }
    if decision.patch:
        patch = json.dumps(list(decision.patch), separators=(",", ":")).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if decision.warning:
        response["warnings"] = [decision.warning[:WARNING_LETTERS]]
    document = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    return json.dumps(document, separators=(",", ":")).encode()


def _audit(decision: Decision) -> dict[str, str]:
    """Give the audit annotations; the API server puts the webhook's name before each key."""
    message = {"message": decision.message} if decision.message else {}
    return {"reason": decision.outcome, **message}
