"""The configuration file, presets, deployers' names, and the files that ship with lbagent."""
