"""cc_library, as current rules_cc names its file."""

def cc_library(**kwargs):
    native.cc_library(**kwargs)
