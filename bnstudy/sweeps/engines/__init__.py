"""Where jobs run; every engine is a function from jobs to outcomes."""
