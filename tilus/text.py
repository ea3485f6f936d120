def to_text(program): return repr(program)
