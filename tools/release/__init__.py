"""What has to hold before a release."""
