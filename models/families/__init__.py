"""The model families `logistic`, `mlp` and `boosted` behind one interface (`models.families.base`).

Nothing is imported here: torch and scikit-learn take seconds, so each is loaded only by the family that trains with it.
"""
