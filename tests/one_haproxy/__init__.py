"""Tests with one real HAProxy and its agent."""
