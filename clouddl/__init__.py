"""CloudDL: cloud masks for sensors not yet flying, from the archives of those that are."""
