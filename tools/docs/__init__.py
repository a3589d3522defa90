"""The documentation as a site: pages that are written, and pages that are made from the code."""
