"""Rules that turn what was measured into findings; each returns those that apply."""
