"""Who may join, who may ask, who may operate, and where a node may dial."""
