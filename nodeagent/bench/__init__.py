"""`make bench`: each figure that we are measured by, beside stock tools, in one run."""
