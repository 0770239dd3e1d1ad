"""What `nodeagent demo` shows: a profile made here, a cache, a node and its agent."""
