"""cc_test, as current rules_cc names its file."""

def cc_test(**kwargs):
    native.cc_test(**kwargs)
