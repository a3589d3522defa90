"""What people use: the command line and what stands behind its commands."""
