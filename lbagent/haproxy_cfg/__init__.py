"""HAProxy's configuration file: parsed, guarded, written after it was checked."""
