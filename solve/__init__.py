"""Choose one option per decision under limits: arrays in, a plan out; no graph and no model in sight."""
