"""What runs, checks, grades and publishes the course. No notebook imports it; `labs --help` lists its commands."""
