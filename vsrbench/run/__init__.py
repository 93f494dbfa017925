"""From a plan to records: methods, jobs, cost."""
