"""The plumbing of the labs: small modules, each with one job. Import what you need from its module."""
