"""The vocabulary: the nouns of DESIGN §2 as types, the rest of the program speaks in them.

Four things that are easily confused have four names:

* ``Intent``: what operators asked for, the only thing that is stored;
* ``Desired`` (plan.py): what HAProxy and its files should hold for that intent;
* ``Observed``: what HAProxy and its files do hold;
* ``Action``: one step that takes the observed towards the desired.

Times are whole seconds since 1970 UTC unless a name says otherwise.
"""
