def units(given):
    return lambda x: x
