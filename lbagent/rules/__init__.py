"""Pure decisions: from a change to an intent, from an intent and what is observed to a plan."""
