"""What others read over HTTP: the agent's endpoints, and a binary cache."""
