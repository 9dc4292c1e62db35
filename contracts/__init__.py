"""The law: what a contract is, who may state what, and when a model may leave. Pure."""
