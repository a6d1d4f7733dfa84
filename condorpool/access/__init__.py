"""The access point: the only folder that imports HTCondor's bindings."""
