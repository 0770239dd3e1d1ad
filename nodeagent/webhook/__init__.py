"""The webhook's server: what an API server asks over TLS, and what it is answered.

`app` is the HTTP application, `listen` accepts connections and bounds them, `health` is what
probes and Prometheus see. An answer allows the pod, always: at worst it is left as it is.
"""
